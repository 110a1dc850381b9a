#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# quickstart.sh [PROMPT] - from a fresh clone to an answer made by edge and cloud.
#
# Sets up what is missing (build-aux/setup.sh), starts a cloud on this machine's
# loopback at a free port, answers PROMPT with an agent in collaborative mode and
# stops the cloud again. Each token is coloured by where it was made.
#
#   CECOLLM_MODEL=FILE   another model than SmolLM2
#   CECOLLM_AGENT='...'  more options for the agent, such as --theta=0.8
set -u
cd "$(dirname "$0")" || exit 1
. build-aux/setup.sh

case ${1-} in
-h | --help)
    echo 'usage: sh quickstart.sh ["prompt"]'
    exit 0
    ;;
esac
prompt=${1:-'Give me three tips for a good night of sleep.'}
ready_s=60 # a cold disk and a slow machine
cloud=

# However this ends, the cloud that we started ends with it, by its own number.
finish()
{
    if [ -n "$cloud" ]; then
        kill -TERM "$cloud" 2>/dev/null
        tries=0
        while kill -0 "$cloud" 2>/dev/null; do
            tries=$((tries + 1))
            [ "$tries" -ne 50 ] || kill -KILL "$cloud" 2>/dev/null
            sleep 0.1
        done
        wait "$cloud" 2>/dev/null
        cloud=
    fi
    setup_cleanup
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' HUP TERM

setup_packages build
setup_build build
setup_model
setup_certs
