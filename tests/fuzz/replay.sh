#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# replay.sh - every fuzz target over its committed corpus.
ran=0
for target in "${CECOLLM_BUILDDIR:-.}"/tests/fuzz/fuzz_*; do
    [ -f "$target" ] && [ -x "$target" ] || continue
    corpus=${CECOLLM_SRCDIR:-.}/tests/fuzz/corpus/${target##*/fuzz_}
    "$target" "$corpus"/* || { echo "failed: $target on one of $corpus/*"; exit 1; }
    ran=$((ran + 1))
done
[ $ran -gt 0 ] || { echo "no fuzz target is built"; exit 77; }
echo "$ran targets replayed"
