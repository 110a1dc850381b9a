#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# fuzz.sh SRCDIR DIR - build the fuzz targets in DIR with clang and run each for
# FUZZ_SECONDS (30), starting from its committed corpus. What it finds stays in
# DIR: crash-* files, replayed by `DIR/tests/fuzz/fuzz_NAME FILE`.
set -e
srcdir=$1
dir=$2
seconds=${FUZZ_SECONDS:-30}

mkdir -p "$dir"
cd "$dir"
[ -f Makefile ] || "$srcdir/configure" CC="${FUZZ_CC:-clang}" --enable-fuzzing
make -j2 fuzz-targets

for target in tests/fuzz/fuzz_*; do
    [ -f "$target" ] && [ -x "$target" ] || continue
    name=${target##*/fuzz_}
    mkdir -p "found/$name"
    echo "== $name, $seconds seconds"
    "$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        "found/$name" "$srcdir/tests/fuzz/corpus/$name" 2>"fuzz-$name.log" ||
        { tail -n 40 "fuzz-$name.log"; exit 1; }
    grep -E 'number_of_executed_units|new_units_added' "fuzz-$name.log"
done
