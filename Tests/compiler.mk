# SPDX-License-Identifier: Apache-2.0
# The compilers of the C and C++ tests, if make's command line or the environment names none: the
# Swift toolchain's clang, else another clang, else gcc. The toolchain's comes first because
# Debian's comes without libFuzzer and may come without the sanitizers.

CLANG := $(firstword $(wildcard $(dir $(realpath $(shell command -v swift 2>/dev/null)))clang) \
    $(shell command -v clang 2>/dev/null))
ifeq ($(origin CC),default)
CC := $(if $(CLANG),$(CLANG),gcc)
endif
ifeq ($(origin CXX),default)
CXX := $(if $(CLANG),$(CLANG)++,g++)
endif
