#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# dev-certs.sh DIR [--host NAME]... [--agent NAME]...
# A small certificate authority for development and first trials.
#
# Makes in DIR what is missing or about to expire, and nothing else:
#   ca.crt ca.key          the authority; ca.key stays on this machine
#   cloudd.crt cloudd.key  the cloud, for localhost and every --host (name or address)
#   NAME.crt NAME.key      one agent each (default: agent); NAME is its DNS name
#                          in the certificate, by which the cloud knows it
# Keys are P-256 and readable by their owner only. For real use take the
# certificates of your own authority: the programs want PEM files, nothing more.
set -eu
umask 077
days=825

usage()
{
    echo "usage: dev-certs.sh DIR [--host NAME]... [--agent NAME]..." >&2
    exit 2
}

[ $# -ge 1 ] || usage
dir=$1
shift
hosts='localhost 127.0.0.1 ::1'
agents=
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || usage
    case $2 in
    '' | *[!A-Za-z0-9.:_-]* | [.-]* | ca | cloudd)
        echo "dev-certs: '$2' cannot be a name here" >&2
        exit 2
        ;;
    esac
    case $1 in
    --host) hosts="$hosts $2" ;;
    --agent) agents="$agents $2" ;;
    *) usage ;;
    esac
    shift 2
done
[ -n "$agents" ] || agents=agent

command -v openssl >/dev/null || {
    echo "dev-certs: openssl is missing; on Debian: apt install openssl" >&2
    exit 1
}
mkdir -p "$dir"
new=$(mktemp -d "$dir/new.XXXXXX")
trap 'rm -rf "$new"' EXIT
trap 'exit 130' HUP INT PIPE TERM

quietly() # command...: its output only when it fails
{
    "$@" >"$new/log" 2>&1 || {
        echo "dev-certs: $1 $2 failed:" >&2
        cat "$new/log" >&2
        exit 1
    }
}

lasts() # certificate: signed by our authority, and good for another day
{
    [ -s "$dir/$1.key" ] && [ -s "$dir/$1.crt" ] &&
        openssl x509 -in "$dir/$1.crt" -noout -checkend 86400 >/dev/null 2>&1 &&
        openssl verify -CAfile "$dir/ca.crt" "$dir/$1.crt" >/dev/null 2>&1
}

alternative() # name: as a subjectAltName entry
{
    case $1 in
    *:*) printf 'IP:%s' "$1" ;;
    *[!0-9.]*) printf 'DNS:%s' "$1" ;;
    *) printf 'IP:%s' "$1" ;;
    esac
}

new_key() # name
{
    quietly openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$new/$1.key"
}

keep() # name: both files into place, the key first
{
    chmod 644 "$new/$1.crt"
    mv "$new/$1.key" "$dir/$1.key"
    mv "$new/$1.crt" "$dir/$1.crt"
    echo "made $dir/$1.crt"
}

issue() # name, extended key usage, names
{
    san=
    for n in $3; do san="$san,$(alternative "$n")"; done
    cat >"$new/ext" <<EXT
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = $2
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = ${san#,}
EXT
    new_key "$1"
    quietly openssl req -new -key "$new/$1.key" -subj "/O=cecollm development/CN=$1" \
        -out "$new/$1.csr"
    quietly openssl x509 -req -in "$new/$1.csr" -CA "$dir/ca.crt" -CAkey "$dir/ca.key" \
        -set_serial "0x01$(openssl rand -hex 15)" -days $days -sha256 \
        -extfile "$new/ext" -out "$new/$1.crt"
    keep "$1"
}

cloud_has_names()
{
    for n in $hosts; do
        case $(alternative "$n") in
        IP:*) want=-checkip ;;
        *) want=-checkhost ;;
        esac
        openssl x509 -in "$dir/cloudd.crt" -noout $want "$n" 2>/dev/null |
            grep -q 'does match' || return 1
    done
}

if ! lasts ca; then
    new_key ca
    quietly openssl req -x509 -new -key "$new/ca.key" -sha256 -days 3650 \
        -subj '/O=cecollm development/CN=cecollm development CA' \
        -addext 'basicConstraints=critical,CA:TRUE,pathlen:0' \
        -addext 'keyUsage=critical,keyCertSign,cRLSign' -out "$new/ca.crt"
    keep ca
fi
if ! lasts cloudd || ! cloud_has_names; then
    issue cloudd serverAuth "$hosts"
fi
for a in $agents; do
    lasts "$a" || issue "$a" clientAuth "$a"
done
