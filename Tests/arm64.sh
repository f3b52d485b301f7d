#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The C tests on a weakly ordered machine's instructions: cross-compiled for arm64, run under qemu.
# This shows that the core is portable; the emulation's memory is as strongly ordered as the host's,
# so orderings are argued in DESIGN.md.
#
# Debian's arm64 packages are unpacked into the build folder; the system's own are left alone.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$PWD/.build/arm64

make setup PACKAGES="gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static"

if [ ! -e "$build/root/usr/include/ck_pr.h" ]; then
    mkdir -p "$build"/{lists/partial,cache/archives/partial,packages}
    apt=(apt-get -q -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o APT::Sandbox::User=root
        -o "Dir::State::Lists=$build/lists" -o "Dir::Cache=$build/cache")
    "${apt[@]}" update
    (cd "$build/packages" && "${apt[@]}" download libck-dev:arm64 libxxhash-dev:arm64)
    for package in "$build"/packages/*.deb; do dpkg -x "$package" "$build/root"; done
fi

core=(Sources/CDedupe/*/*.c)
shared=(Tests/CDedupeTests/{subject,beside_model,hooks}.c Tests/CModel/*.c)
for test in scenarios interface exhaustive allocation threads constant_memory regressions; do
    aarch64-linux-gnu-gcc -std=c11 -D_GNU_SOURCE -O2 -g -Wall -Wextra -static -ISources/CDedupe/include \
        -ISources/CDedupe -ITests/CModel/include -I"$build/root/usr/include" -o "$build/test_$test" "${core[@]}" \
        "Tests/CDedupeTests/test_$test.c" "${shared[@]}" "$build/root/usr/lib/aarch64-linux-gnu/libck.a" -lpthread
done
qemu-aarch64-static "$build/test_scenarios" Tests/Scenarios/*.scenarios
qemu-aarch64-static "$build/test_interface"
qemu-aarch64-static "$build/test_exhaustive" 4
qemu-aarch64-static "$build/test_allocation" 7
qemu-aarch64-static "$build/test_regressions"
qemu-aarch64-static "$build/test_constant_memory" 2000 20000
qemu-aarch64-static "$build/test_threads" 10
