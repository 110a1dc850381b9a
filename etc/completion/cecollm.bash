# SPDX-License-Identifier: Apache-2.0
# Completion of cecollm-model, cecollm-agent, cecollm-cloudd and cecollm-swarm for bash,
# and for zsh through its bashcompinit. Installed under the name of each program, so that it is read
# when one is first completed. Options are written here, not asked of the programs, so
# that nothing runs while someone types; tests/run/completion.py compares them with
# --help.

# Words that begin with what is typed: _cecollm_words 'a b c'
_cecollm_words() {
    local word
    for word in $(echo "$1"); do
        case $word in
        "$cur"*) COMPREPLY+=("$word") ;;
        esac
    done
}

# Files whose name ends as given, or any without it, and folders.
_cecollm_files() {
    local name
    while IFS= read -r name; do
        if [ -d "$name" ]; then
            COMPREPLY+=("$name/")
        else
            case $name in
            *"$1") COMPREPLY+=("$name") ;;
            esac
        fi
    done < <(compgen -f -- "$cur")
    # Of a folder alone one wants to see what is inside: no blank behind it.
    case ${COMPREPLY[0]-} in
    */) [ ${#COMPREPLY[@]} -eq 1 ] && compopt -o nospace 2>/dev/null ;;
    esac
    return 0
}

# The value of option $1; fails when the option takes none.
_cecollm_value() {
    case $1 in
    --exits) _cecollm_words none; _cecollm_files .gguf ;;
    --model | --edge | -m) _cecollm_files .gguf ;;
    --cpu) _cecollm_words 'auto scalar avx2 avxvnni avx512 neon neon-dotprod neon-i8mm' ;;
    --packing | --screens) _cecollm_words 'on off' ;;
    --log-level) _cecollm_words 'error warn info debug' ;;
    --codec) _cecollm_words 'f16 f32' ;;
    --color) _cecollm_words 'auto always never' ;;
    --packing-cache | --peer) _cecollm_files / ;;
    --data | -d | --check | -c | --config | --prompts | --ca | --cert | --key | \
        --token-file | --output | -o)
        _cecollm_files '' ;;
    *) return 1 ;;
    esac
}

_cecollm_model_options() {
    local engine='--threads --cpu --packing --packing-cache'
    case $1 in
    info) echo --splits --split --exits --exit-layers --json ;;
    verify) echo --sha256 --check --exits --threads ;;
    split) echo --cloud-from --edge-to --edge --cloud --exits --exit-layers ;;
    tokenize) echo --special --chat-template --ids --decode --json ;;
    ppl) echo --chunks --ctx $engine --json ;;
    score) echo --all-exits --logits --exits --exit-layers $engine ;;
    bench) echo --repeats --only --scaling --peer --exits --exit-layers $engine --json ;;
    fit-screens)
        echo --data --output --exits --rank --candidates --rows --up-type --adapters \
            --seed $engine --json ;;
    tune-exits)
        echo --layers --data --output --self --invent --summaries --tokens \
            --answer-tokens --exclude --save-prompts --rows --more-rows --collect-only \
            --top --width --steps --batch --rate --dropout --patience --adapters --rank \
            --candidates --no-trust --no-screens --resume --seed $engine --json ;;
    eval-exits)
        echo --prompts --limit --max-tokens --thetas --no-frontier --choose --record \
            --edge-ms-block --cloud-ms --rtt-ms --width --exits --exit-layers $engine \
            --json --plots ;;
    quantize) echo --output --type --output-type --all --force --threads ;;
    synth)
        echo --output --type --arch --layers --d-model --heads --kv-heads --head-dim \
            --d-ff --ctx --vocab --untied --biases --n-rot --rope-base --rope-scale \
            --rope-freqs --seed --exits --exit-kind --exit-width --candidates ;;
    esac
    echo --help
}

_cecollm_types='F32 F16 BF16 Q8_0 Q6_K Q5_1 Q5_0 Q5_K Q4_1 Q4_0 Q4_K Q3_K Q2_K'

# Values that only one command's option has.
_cecollm_model_value() {
    case $1$2 in
    info--splits) _cecollm_words 'exits all none' ;;
    quantize--type | quantize--output-type | synth--type)
        _cecollm_words "$_cecollm_types" ;;
    synth--arch) _cecollm_words 'llama qwen2 qwen3 smollm3' ;;
    synth--exit-kind) _cecollm_words 'mlp trust shared own' ;;
    fit-screens--up-type) _cecollm_words 'q4_1 q4_0 q8_0 f16' ;;
    fit-screens--adapters) _cecollm_words 'keep q8_0' ;;
    tune-exits--adapters) _cecollm_words 'q8_0 f16' ;;
    tune-exits--self | tune-exits--exclude | tune-exits--rows | tune-exits--save-prompts)
        _cecollm_files '' ;;
    eval-exits--json | eval-exits-p) _cecollm_files '' ;;
    eval-exits--plots) _cecollm_files / ;;
    eval-exits--choose) _cecollm_words 'rouge= requests= time=' ;;
    split--cloud | quantize--output | quantize-o) _cecollm_files .gguf ;;
    tokenize-d | synth--exits) return 1 ;;
    *) _cecollm_value "$2" ;;
    esac
}

# "--name=val" is "--name", "=", "val" to bash and one word to zsh. Sets cur and prev.
_cecollm_split_words() {
    cur=${COMP_WORDS[COMP_CWORD]}
    prev=${COMP_WORDS[COMP_CWORD - 1]}
    if [ "$cur" = = ]; then
        cur=
    elif [ "$prev" = = ] && [ "$COMP_CWORD" -gt 1 ]; then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
    fi
}

_cecollm_model() {
    local cur prev command=${COMP_WORDS[1]}
    COMPREPLY=()
    _cecollm_split_words
    if [ "$COMP_CWORD" -eq 1 ]; then
        _cecollm_words 'info verify split tokenize ppl score bench fit-screens tune-exits
            eval-exits quantize synth --help --version'
        return 0
    fi
    _cecollm_model_value "$command" "$prev" && return 0
    case $cur in
    -*) _cecollm_words "$(_cecollm_model_options "$command")" ;;
    *)
        # The model comes first; what follows may be any file.
        if [ "$COMP_CWORD" -eq 2 ] || [ "$command" = verify ]; then
            _cecollm_files .gguf
        else
            _cecollm_files ''
        fi ;;
    esac
    return 0
}

_cecollm_agent_options='--model --exits --exit-layers --no-exits --cut-layer --context
    --threads --prefill-chunk --cpu --packing --packing-cache --mode --theta --screens
    --upload --on-cloud-loss --naive-kv --cloud --ca --cert --key --token-file --codec
    --connect-timeout --silence-timeout --reconnect --deadline --retain-limit
    --require-exact --max-tokens --temperature --top-k --top-p --min-p --seed --stop
    --system --chat-template --raw --json --trace --hash --quiet --color --log-level
    --config --prompt --prompts --ids --force-ids --print-config --help --version'

_cecollm_agent() {
    local cur prev
    COMPREPLY=()
    _cecollm_split_words
    case $prev in
    --packing | --screens) ;; # switches here: --packing, --packing=off
    *) _cecollm_value "$prev" && return 0 ;;
    esac
    _cecollm_words "$_cecollm_agent_options"
    return 0
}

_cecollm_cloudd_keys='listen port_file node ca cert key crl max_connections
    max_connections_per_address max_sessions max_output handshake_timeout idle_timeout
    peer_timeout drain_timeout client_certs tenants user group core_dumps
    model exits layer_from whole_model threads cpu packing packing_cache
    n_ctx kv_budget max_seqs max_seqs_per_session window states_budget seq_idle_timeout
    step_rows step_budget_ms eager max_queued
    log_level metrics_listen metrics_token metrics_connections metrics_tenants stall_timeout'

_cecollm_cloudd() {
    local cur prev
    COMPREPLY=()
    _cecollm_split_words
    case $prev in
    -s | --set)
        _cecollm_words "$_cecollm_cloudd_keys"
        [ ${#COMPREPLY[@]} -eq 1 ] && COMPREPLY=("${COMPREPLY[0]}=") &&
            compopt -o nospace 2>/dev/null
        return 0 ;;
    model | exits) _cecollm_files .gguf; return 0 ;;
    ca | cert | key | crl | tenants) _cecollm_files ''; return 0 ;;
    client_certs) _cecollm_words 'required optional'; return 0 ;;
    *) _cecollm_value "$prev" && return 0 ;;
    esac
    _cecollm_words '--config --set --check-config --print-config --make-token --help --version'
    return 0
}

_cecollm_swarm_options() {
    local engine='--threads --cpu --packing --packing-cache'
    case $1 in
    record)
        echo --prompts --output --limit --max-tokens --theta --cut --codec --exits \
            --exit-layers $engine ;;
    run)
        echo --connect --ca --cert --key --sessions --active --think --seconds --warm-up \
            --scenario --others --storm --greedy-cert --greedy-key --keep-going \
            --patience --connecting --sources --watch --json ;;
    engine) echo --active --step-rows --seconds $engine --json ;;
    esac
    echo --help
}

_cecollm_swarm() {
    local cur prev command=${COMP_WORDS[1]}
    COMPREPLY=()
    _cecollm_split_words
    if [ "$COMP_CWORD" -eq 1 ]; then
        _cecollm_words 'record run engine --help --version'
        return 0
    fi
    case $prev in
    --scenario)
        _cecollm_words 'steady reconnect slow half-open garbage greedy'
        return 0 ;;
    --think) _cecollm_words zero; return 0 ;;
    --greedy-cert | --greedy-key) _cecollm_files ''; return 0 ;;
    *) _cecollm_value "$prev" && return 0 ;;
    esac
    case $cur in
    -*) _cecollm_words "$(_cecollm_swarm_options "$command")" ;;
    *)
        if [ "$COMP_CWORD" -eq 2 ] && [ "$command" != run ]; then
            _cecollm_files .gguf
        else
            _cecollm_files ''
        fi ;;
    esac
    return 0
}

complete -F _cecollm_swarm cecollm-swarm
complete -F _cecollm_model cecollm-model
complete -F _cecollm_agent cecollm-agent
complete -F _cecollm_cloudd cecollm-cloudd
