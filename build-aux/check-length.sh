#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check-length.sh - a file is one idea: none is longer than 700 lines.
cd "${CECOLLM_SRCDIR:-$(dirname "$0")/..}" || exit 99
limit=700

long=$(for d in common engine gpu server agent tools bench tests; do
    [ -d "$d" ] && find "$d" -type f \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' \
        -o -name '*.py' -o -name '*.sh' \) -exec awk -v max=$limit \
        'END { if (NR > max) print FILENAME ": " NR " lines" }' {} \;
done)
[ -z "$long" ] && exit 0
printf 'longer than %s lines:\n%s\n' $limit "$long"
exit 1
