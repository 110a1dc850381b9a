#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check-includes.sh - keep the folders' order: common <- engine <- {server,
# agent, tools, bench}. Server and agent never see each other; gpu knows the
# engine. Our headers are named from the top ("common/frame.h").
cd "${CECOLLM_SRCDIR:-$(dirname "$0")/..}" || exit 99
failed=0

check() # folder, folders it may include (as an alternation)
{
    [ -d "$1" ] || return 0
    found=$(find "$1" -type f \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' \) \
        -exec grep -nHE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' {} + |
        grep -vE "\"(($2)/[^\"]*|config\\.h)\"")
    [ -z "$found" ] && return 0
    printf '%s/ may include only "%s":\n%s\n' "$1" "$2" "$found"
    failed=1
}

check common 'common'
check engine 'common|engine'
check gpu 'common|engine|gpu'
check server 'common|engine|gpu|server'
check agent 'common|engine|gpu|agent'
check tools 'common|engine|gpu|tools'
check bench 'common|engine|gpu|tools|bench'
exit $failed
