#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# dev_certs.sh - build-aux/dev-certs.sh: a chain that verifies, names that
# match, keys that nobody else reads, nothing made twice, a new host reissued.
make_certs="${CECOLLM_SRCDIR:-.}/build-aux/dev-certs.sh"
command -v openssl >/dev/null || { echo "no openssl program"; exit 77; }
dir=$(mktemp -d) || exit 99
trap 'rm -rf "$dir"' EXIT
. "${CECOLLM_SRCDIR:-.}/tests/run/check.sh"

fails() { ! "$@"; }
silent() { "$@" >"$dir/said" 2>&1 && [ ! -s "$dir/said" ]; }
says() { text=$1; shift; "$@" 2>&1 | grep "$text"; }
mode_is() { [ "$(stat -c %a "$2")" = "$1" ]; }
purpose() { openssl verify -purpose "$1" -CAfile "$dir/c/ca.crt" "$2"; }
host_is() { openssl x509 -in "$dir/c/cloudd.crt" -noout "$1" "$2" | grep -q 'does match'; }

check 'makes the first set' sh "$make_certs" "$dir/c"
check 'the cloud may serve' purpose sslserver "$dir/c/cloudd.crt"
check 'the agent may call' purpose sslclient "$dir/c/agent.crt"
check 'the agent may not serve' fails purpose sslserver "$dir/c/agent.crt"
check 'the cloud is localhost' host_is -checkhost localhost
check 'the cloud is 127.0.0.1' host_is -checkip 127.0.0.1
check 'the cloud is nobody else' fails host_is -checkhost cloud.example.net
check 'keys are the owner'\''s' mode_is 600 "$dir/c/agent.key"
check 'certificates are public' mode_is 644 "$dir/c/agent.crt"
check 'a second run makes nothing' silent sh "$make_certs" "$dir/c"
check 'another host renews the cloud' says cloudd.crt \
    sh "$make_certs" "$dir/c" --host cloud.example.net --agent edge-2
check 'the host is in it' host_is -checkhost cloud.example.net
check 'the second agent may call' purpose sslclient "$dir/c/edge-2.crt"
check 'no name may leave the folder' fails sh "$make_certs" "$dir/c" --agent ../x
check 'no leftovers' sh -c "! ls -d '$dir'/c/new.*"
exit $failed
