#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Compares the steps that the models name at the start of a comment with the marks in the core's
# comments: "Model step U5", which may go over a line's end, or [U5]. Fails if a step has no mark,
# or a mark no step.
set -u
cd "$(dirname "$0")" || exit 1
core=${CORE:-../../Sources/CDedupe}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

grep -oh '/\* [A-Z][0-9][0-9]*[ :]' ./*.pml | grep -o '[A-Z][0-9]*' | sort -u > "$work/models"
{
    grep -oh '\[[A-Z][0-9][0-9]*\]' "$core"/*/*.[ch]
    cat "$core"/*/*.[ch] | sed 's/^ *\* //' | tr -s '\n ' '  ' |
        grep -oE 'Model steps? [A-Z][0-9]+((,| and|, and) [A-Z][0-9]+)*'
} | grep -oE '[A-Z][0-9]+' | sort -u > "$work/code"
only_models=$(comm -23 "$work/models" "$work/code" | tr '\n' ' ')
only_code=$(comm -13 "$work/models" "$work/code" | tr '\n' ' ')
[ -z "$only_models" ] || echo "not marked in the code: $only_models"
[ -z "$only_code" ] || echo "not in a model: $only_code"
[ -z "$only_models$only_code" ] || exit 1
echo "$(wc -l < "$work/models") steps, the same in the models and in the code"
