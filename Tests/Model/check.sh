#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check.sh holds|fails NAME MODEL [FLAG...]
#
# Lets Spin search one configuration of MODEL.pml completely. Prints one line: name, states, depth,
# seconds, result. Fails if the result is not the wanted one, if the search was cut short, or if the
# model's arrays were too small for the configuration.
set -u
wanted=$1 name=$2 model=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)
build=${BUILD:-$here/../../.build/model}/$name
rm -rf "$build" && mkdir -p "$build" && cd "$build" || exit 1

spin -a "$@" "$here/$model.pml" > spin.log 2>&1 || { cat spin.log; exit 1; }
gcc ${OPTIMIZE:--O0} -w -DSAFETY -DCOLLAPSE -DNOCLAIM -DVECTORSZ=2048 -DMEMLIM=${MEMORY_MB:-6500} -o pan pan.c || exit 1
start=$(date +%s)
./pan -n -m${DEPTH:-100000} -w${HASH:-20} > pan.log 2>&1
seconds=$(($(date +%s) - start))

short='too_small\|too small\|out of memory\|MEMLIM\|VECTORSZ'
states=$(awk '/states, stored/ { printf "%.0f", $1; exit }' pan.log)
depth=$(sed -n 's/.*depth reached \([0-9]*\), errors.*/\1/p' pan.log)
if grep -q "$short" pan.log; then
    result="TOO SMALL: $(grep -m 1 "$short" pan.log)"
elif grep -q 'errors: 0$' pan.log && ! grep -q 'Search not completed' pan.log; then
    result=holds
elif grep -q 'errors: [1-9]' pan.log; then
    result="fails: $(sed -n 's/^pan:[0-9]*: //p' pan.log | head -n 1)"
else
    result="NO RESULT: $(tail -n 1 pan.log)"
fi
printf '%-28s %10s states  depth %6s  %4s s  %s\n' "$name" "${states:-?}" "${depth:-?}" "$seconds" "$result"
case $result in
"$wanted"*) ;;
*) echo "$name: $wanted was expected; see $build" >&2; exit 1 ;;
esac
