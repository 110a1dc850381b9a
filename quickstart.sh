#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# quickstart.sh [PROMPT] - from a fresh clone to an answer made by edge and cloud.
#
# Sets up what is missing (build-aux/setup.sh), starts a cloud on this machine's
# loopback at a free port, answers PROMPT with an agent in collaborative mode and
# stops the cloud again. Each token is coloured by where it was made. Ends with the
# agent's status.
#
#   CECOLLM_MODEL=FILE   another model than SmolLM2
#   CECOLLM_EXITS=FILE   its exit heads, when they are not beside it
set -u
cd "$(dirname "$0")" || exit 1
. build-aux/setup.sh

case ${1-} in
-h | --help)
    echo 'usage: sh quickstart.sh ["prompt"]'
    exit 0
    ;;
esac
prompt=${*:-Give me three tips for a good night of sleep.}
ready_s=60 # a cold disk and a slow machine
run=
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
    [ -z "$run" ] || rm -rf "$run"
    setup_cleanup
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' HUP TERM

# The cloud writes its port to a file once it takes agents.
wait_for_cloud()
{
    tries=$((ready_s * 10))
    while [ ! -s "$run/port" ]; do
        kill -0 "$cloud" 2>/dev/null || { echo 'it ended'; return 1; }
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || { echo "it is not ready after $ready_s s"; return 1; }
        sleep 0.1
    done
}

setup_packages build
setup_build build
setup_model
setup_certs
model=$setup_model_file
exits=${CECOLLM_EXITS:-}
if [ -z "$exits" ] && [ -n "${CECOLLM_MODEL:-}" ] && setup_model_is_right "$model"; then
    exits=models/smollm2-135m-instruct.exits.gguf # SmolLM2 kept elsewhere
fi

mkdir -p run && run=$(mktemp -d run/quickstart.XXXXXX) || exit 1
build/cecollm-cloudd --set "model=$model" --set "exits=$exits" \
    --set listen=127.0.0.1:0 --set metrics_listen=off --set "port_file=$run/port" --set ca=dev-certs/ca.crt \
    --set cert=dev-certs/cloudd.crt --set key=dev-certs/cloudd.key \
    </dev/null >"$run/log" 2>&1 &
cloud=$!
if ! setup_try 'Starting the cloud' wait_for_cloud; then
    echo "The cloud did not start: $(cat "$setup_log"). Its last words:" >&2
    tail -n 10 "$run/log" | sed 's/^/    /' >&2
    exit 1
fi

build/cecollm-agent --mode collaborative --model "$model" ${exits:+--exits "$exits"} \
    --cloud "127.0.0.1:$(cat "$run/port")" --ca dev-certs/ca.crt \
    --cert dev-certs/agent.crt --key dev-certs/agent.key --prompt "$prompt"
status=$?
kill -0 "$cloud" 2>/dev/null || {
    echo 'The cloud ended meanwhile. Its last words:' >&2
    tail -n 10 "$run/log" | sed 's/^/    /' >&2
}
exit $status
