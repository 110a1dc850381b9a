#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# embed.sh FILE NAME HEADER - FILE as a C array NAME, with its size, on standard output.
set -eu
cat <<END
/* Made from ${1##*/} by build-aux/embed.sh. */
#include "$3"

const unsigned char $2[] = {
END
od -An -v -tu1 "$1" | sed -e 's/[0-9][0-9]*/&,/g'
cat <<END
};
const size_t $2_size = sizeof($2);
END
