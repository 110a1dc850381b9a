#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# fuzz.sh DIR - build DIR/src with clang and libFuzzer, and run every target
# for FUZZ_SECONDS (30), beginning with its committed corpus. New inputs stay in
# DIR/found/NAME; one that fails is DIR/crash-*, and
# `DIR/tests/fuzz/fuzz_NAME FILE` runs it again.
set -e
seconds=${FUZZ_SECONDS:-30}

cd "$1"
echo "fuzz: building"
[ -f Makefile ] || src/configure CC="${FUZZ_CC:-clang}" --enable-fuzzing >configure.out
make -s -j2 fuzz-targets

for target in tests/fuzz/fuzz_*; do
    [ -f "$target" ] && [ -x "$target" ] || continue
    name=${target##*/fuzz_}
    mkdir -p "found/$name"
    echo "fuzz: $name for $seconds seconds"
    "$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
        -print_final_stats=1 "found/$name" "src/tests/fuzz/corpus/$name" \
        2>"fuzz-$name.log" || {
        tail -n 40 "fuzz-$name.log"
        exit 1
    }
    grep -E 'number_of_executed_units|new_units_added' "fuzz-$name.log"
done
