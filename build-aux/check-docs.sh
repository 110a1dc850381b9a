#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check-docs.sh - what the documents say is there, is there.
#
# - Every option that a program's --help names is in its manual page, and every
#   option that the page lists is in the --help.
# - Every file of the tree that a document names exists (globs may be used).
# - No document or script holds a path of one particular machine.
src=${CECOLLM_SRCDIR:-$(dirname "$0")/..}
build=${CECOLLM_BUILDDIR:-$src}
n=0
failed=0
tmp=$(mktemp -d) || exit 99
trap 'rm -rf "$tmp"' EXIT

result() # what should be so; what is wrong is in $tmp/wrong
{
    n=$((n + 1))
    if [ ! -s "$tmp/wrong" ]; then
        echo "ok $n - $1"
    else
        echo "not ok $n - $1"
        sed 's/^/# /' "$tmp/wrong"
        failed=1
    fi
}

# Options named anywhere in a text, one a line.
options()
{
    grep -oE -e '--[a-z][a-z0-9-]*' | sort -u
}

# A manual page's text with the markup of options taken out: mdoc writes "Fl -x",
# man writes "\-\-x".
plain()
{
    sed -e 's/\\-/-/g' -e 's/\\f[BIRP]//g' -e 's/Fl Fl /--/g' -e 's/Fl -/--/g' -e 's/ , -\([a-z][a-z]\)/ , --\1/g' "$@"
}

# A program's help, and that of the commands it lists as "  NAME  what it does".
help_of() # program
{
    "$1" --help
    "$1" --help | sed -n 's/^  \([a-z][a-z-]*\)  *[a-z].*/\1/p' | while read -r command; do
        "$1" "$command" --help
    done
}

for page in "$src"/man/cecollm-*.[18]; do
    [ -f "$page" ] || continue
    name=${page##*/}
    name=${name%.[18]}
    [ -x "$build/$name" ] || continue
    help_of "$build/$name" >"$tmp/help" 2>&1 </dev/null
    options <"$tmp/help" >"$tmp/in-help"
    plain "$page" | options >"$tmp/in-page"
    plain "$page" | grep -E '^\.(It .*|B|BI|BR) *"?--' | options >"$tmp/listed"
    comm -23 "$tmp/in-help" "$tmp/in-page" >"$tmp/wrong"
    result "$name: the page has every option of --help"
    comm -13 "$tmp/in-help" "$tmp/listed" >"$tmp/wrong"
    result "$name: --help has every option of the page"
done

cd "$src" || exit 99
for doc in README.md doc/*.md models/README.md; do
    [ -f "$doc" ] || continue
    grep -oE '(^|[^A-Za-z0-9_./<>=$-])(common|engine|gpu|server|agent|tools|bench|etc|man|tests|doc|build-aux|m4)/[][A-Za-z0-9_.*/-]+' "$doc" |
        sed -e 's/^[^a-z]//' -e '/\[/!s/].*//' -e 's/[.]*$//' | sort -u |
        while read -r name; do
            # shellcheck disable=SC2086 # the name may be a glob
            ls -d $name >/dev/null 2>&1 || echo "$doc names $name"
        done
done >"$tmp/wrong"
result 'files that documents name exist'

find . -path './build*' -prune -o -path ./.git -prune -o -type f \
    \( -name '*.md' -o -name '*.sh' -o -name '*.py' -o -name '*.[1-8]' -o -name '*.conf' \
    -o -name '*.am' -o -name '*.ac' \) \
    -exec grep -nHE '(^|[^A-Za-z0-9_.])/(home|root|work|mnt)/' {} + >"$tmp/wrong"
result 'no path of one machine'

exit $failed
