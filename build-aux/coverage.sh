#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# coverage.sh SRCDIR DIR - build DIR/src with --enable-coverage, run the tests,
# say how many lines of common/ engine/ server/ agent/ ran, fail below 85 %
# (COVERAGE_MIN). Line by line: genhtml -o DIR/html DIR/lines. Data and model
# are taken from beside SRCDIR, as in an ordinary `make check`.
set -e
: "${CECOLLM_DATA:=$1/../shared/data}"
: "${CECOLLM_MODEL:=$1/models/SmolLM2-135M-Instruct.Q4_1.gguf}"
export CECOLLM_DATA CECOLLM_MODEL
min=${COVERAGE_MIN:-85}
command -v lcov >/dev/null || {
    echo "coverage: lcov is not installed (apt install lcov)" >&2
    exit 1
}

cd "$2"
here=$(pwd -P) # gcov follows links
echo "coverage: building"
[ -f Makefile ] || src/configure --enable-coverage >configure.out
make -s -j2 all
echo "coverage: running the tests"
find . -name '*.gcda' -exec rm -f {} +
make -s -j2 check

lcov --quiet --capture --directory . --base-directory "$here" --output-file all
lcov --quiet --extract all "$here/src/common/*" "$here/src/engine/*" "$here/src/server/*" \
    "$here/src/agent/*" --output-file lines
awk -F: -v min="$min" -v src="$here/src/" '
    /^SF:/ { file = substr($0, 4 + length(src)) }
    /^LF:/ { found = $2 }
    /^LH:/ { printf "%6.1f %%  %5d / %-5d %s\n", found ? 100 * $2 / found : 100, $2, found, file
             lf += found; lh += $2 }
    END {
        share = lf ? 100 * lh / lf : 0
        printf "%6.1f %%  of %d lines; the bar is %s %%\n", share, lf, min
        exit share < min
    }' lines
