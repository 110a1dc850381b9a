#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# coverage.sh SRCDIR DIR - build in DIR with --enable-coverage, run the tests,
# say how many lines of common/ engine/ server/ agent/ ran, fail below 85 %.
# COVERAGE_MIN changes the bar. The uncovered lines: lcov's genhtml DIR/lines.
set -e
srcdir=$(cd "$1" && pwd -P)
dir=$2
min=${COVERAGE_MIN:-85}
command -v lcov >/dev/null || {
    echo "coverage: lcov is not installed (apt install lcov)" >&2
    exit 1
}

mkdir -p "$dir"
cd "$dir"
[ -f Makefile ] || "$srcdir/configure" --enable-coverage
make -j2
find . -name '*.gcda' -exec rm -f {} +
make -j2 check

lcov --quiet --capture --directory . --base-directory "$srcdir" --output-file all
lcov --quiet --extract all '*/common/*' '*/engine/*' '*/server/*' '*/agent/*' --output-file some
lcov --quiet --remove some '*/tests/*' --output-file lines
awk -F: -v min="$min" -v src="$srcdir/" '
    /^SF:/ { file = substr($0, 4); sub(src, "", file) }
    /^LF:/ { found = $2 }
    /^LH:/ { printf "%6.1f %%  %5d / %-5d %s\n", found ? 100 * $2 / found : 100, $2, found, file
             lf += found; lh += $2 }
    END {
        share = lf ? 100 * lh / lf : 0
        printf "%6.1f %%  of %d lines; the bar is %s %%\n", share, lf, min
        exit share < min
    }' lines
