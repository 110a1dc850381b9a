#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# fuzz.sh DIR [CORPUS] - build DIR/src with clang and libFuzzer, and run every target,
# or those that FUZZ_ONLY names ("gguf tokenizer"), for FUZZ_SECONDS (30), beginning
# with its committed corpus. New inputs stay in DIR/found/NAME; one that fails is
# DIR/crash-*, and `DIR/tests/fuzz/fuzz_NAME FILE` runs it again.
#
# With CORPUS, what covers code that no input in CORPUS/NAME covers goes there: as few
# inputs as do it, each of at most 4 KiB.
set -e
seconds=${FUZZ_SECONDS:-30}
corpus=$2

cd "$1"
echo "fuzz: building"
[ -f Makefile ] || src/configure CC="${FUZZ_CC:-clang}" --enable-fuzzing >configure.out
make -s -j2 fuzz-targets

for target in tests/fuzz/fuzz_*; do
    [ -f "$target" ] && [ -x "$target" ] || continue
    name=${target##*/fuzz_}
    case " ${FUZZ_ONLY:-$name} " in *" $name "*) ;; *) continue ;; esac
    words=src/tests/fuzz/$name.dict
    [ -f "$words" ] && words=-dict=$words || words=
    mkdir -p "found/$name"
    echo "fuzz: $name for $seconds seconds"
    "$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
        ${words:+"$words"} \
        -print_final_stats=1 "found/$name" "src/tests/fuzz/corpus/$name" \
        2>"fuzz-$name.log" || {
        tail -n 40 "fuzz-$name.log"
        exit 1
    }
    grep -E 'number_of_executed_units|new_units_added' "fuzz-$name.log"
    [ -n "$corpus" ] || continue
    "$target" -set_cover_merge=1 -max_len=4096 -rss_limit_mb=2048 "$corpus/$name" \
        "found/$name" 2>"merge-$name.log" || { tail -n 40 "merge-$name.log"; exit 1; }
    echo "fuzz: $corpus/$name: $(find "$corpus/$name" -type f | wc -l) files," \
        "$(du -sk "$corpus/$name" | cut -f 1) KiB"
done
