#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Keys that collide under a known secret do not slow down a buffer that has its own secret.
# callgrind counts the instructions.
#
#   hostile.sh PROGRAM       test_hostile, as built
#
# With the known secret the keys must slow the buffer down, because otherwise they no longer collide
# and the test shows nothing. With a random secret they must not.
set -eu

# Prints the instructions of hostile_work() for these keys under this secret.
count() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect=hostile_work \
        "$program" count "$1" "$2" 2>&1 | awk '/Collected *:/ { print $NF }'
}

program=$1
ordinary=$(count ordinary random)
printf '%-12s %-8s %12s\n' keys secret instructions ordinary random "$ordinary"
failed=0
for keys in same-tag same-set same-cell; do
    for secret in known random; do
        counted=$(count $keys $secret)
        printf '%-12s %-8s %12s  %s\n' $keys $secret "$counted" \
            "$(awk "BEGIN { printf \"%.2f times as many\", $counted / $ordinary }")"
        case $secret in
        known) wanted="$counted > $ordinary * 2" ;;
        random) wanted="$counted < $ordinary * 1.2" ;;
        esac
        # Only keys with equal fingerprints are certain to be slow. Splitting and growing the index
        # deals with the others.
        if [ $keys-$secret != same-set-known ] && [ $keys-$secret != same-cell-known ]; then
            awk "BEGIN { exit !($wanted) }" || { echo "failed: $wanted"; failed=1; }
        fi
    done
done
exit $failed
