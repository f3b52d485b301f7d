#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Compares the names of steps: those of the models (in a comment, at its start) with the marks in the core's
# comments ("Model step U5", or [U5]).
# Fails if one is only here or only there.
set -u
cd "$(dirname "$0")" || exit 1
core=${CORE:-../../Sources/CDedupe}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

grep -oh '/\* [A-Z][0-9][0-9]*[ :]' ./*.pml | grep -o '[A-Z][0-9]*' | sort -u > "$work/models"
{
    grep -oh '\[[A-Z][0-9][0-9]*\]' "$core"/*/*.[ch]
    grep -ohE 'Model steps? [A-Z][0-9]+((,| and|, and) [A-Z][0-9]+)*' "$core"/*/*.[ch]
} | grep -oE '[A-Z][0-9]+' | sort -u > "$work/code"
only_models=$(comm -23 "$work/models" "$work/code" | tr '\n' ' ')
only_code=$(comm -13 "$work/models" "$work/code" | tr '\n' ' ')
[ -z "$only_models" ] || echo "not marked in the code: $only_models"
[ -z "$only_code" ] || echo "not in a model: $only_code"
[ -z "$only_models$only_code" ] || exit 1
echo "$(wc -l < "$work/models") steps, the same in the models and in the code"
