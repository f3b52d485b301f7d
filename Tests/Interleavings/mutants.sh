#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes each mutant of mutants.pl in a copy of the core. A program must find it. Prints the program,
# the number of preemptions, and the number of schedules until then.
set -u
cd "$(dirname "$0")"
root=$(cd ../../.build/interleavings && pwd)/mutants
original=${CORE:-../../Sources/CDedupe}
missed=0
list=$(mktemp)
trap 'rm -f "$list"' EXIT

perl mutants.pl list > "$list"
rm -rf "$root/core"
mkdir -p "$root"
cp -r "$original" "$root/core"

while IFS='|' read -r number variant file name; do
    case "$variant" in
    stops) variant=wrap options= ;;
    tiny) options="--no-stops --match tiny:" ;;
    *) options=--no-stops ;;
    esac
    perl mutants.pl apply "$number" "$root/core" || exit 1
    if ! make -s program VARIANT="$variant" CORE="$root/core" BUILD="$root/$variant" > "$root/log" 2>&1; then
        cat "$root/log"
        exit 1
    fi
    # The time limit is for a mutant that hangs the program.
    timeout 300 "$root/$variant/interleavings" --quiet --first $options --preemptions 2 > "$root/out" 2>&1
    status=$?
    if [ "$status" = 1 ]; then
        printf '%s\n' "$name"
        sed -n 's/^FAILED: /    /p; s/^  found with/    with/p; s/^  thread 0 stopped/    thread 0 stopped/p' "$root/out"
        sed -n 's/^[0-9]* programs, \([0-9]*\) schedules.*/    \1 schedules of all programs until then/p' "$root/out"
    else
        printf 'NOT FOUND  %s (status %s)\n' "$name" "$status"
        missed=$((missed + 1))
    fi
    cp "$original/$file" "$root/core/$file"
done < "$list"

[ "$missed" = 0 ] || { echo "$missed not found"; exit 1; }
