# shellcheck shell=bash
# Functions that build.sh, train.sh, test.sh and .ci/run share. Sourced, never run; the caller has said
# `set -euo pipefail`.
#
# Exit codes are those of gptoss_ft/errors.py: 2 command line, 4 the machine (Python, Docker, GPU driver).

readonly EXIT_USAGE=2 EXIT_MACHINE=4
root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")") # the project's folder

say() { printf '[%s] %s\n' "${0##*/}" "$*" >&2; }

fail() { # CODE SENTENCE: what is wrong, and what to do
    printf '%s: error: %s\n' "${0##*/}" "$2" >&2
    exit "$1"
}

print_head_comment() { # FILE: the comment below its first line is its help
    sed -n '2,/^[^#]/{ s/^#$//p; s/^# //p; }' "$1"
}

split_words() { # NAME ARRAY: the words of the variable NAME, quoted as in a shell, into ARRAY
    local lines
    local -n words=$2
    lines=$(xargs -r printf '%s\n' <<<"${!1:-}" 2>/dev/null) \
        || fail "$EXIT_USAGE" "$1 holds a quote that is not closed: ${!1}"
    words=()
    # shellcheck disable=SC2034  # the caller reads it, under its own name
    if [[ -n $lines ]]; then mapfile -t words <<<"$lines"; fi
}

# --- Docker -------------------------------------------------------------------------------------------

need_docker() {
    local answer
    command -v docker >/dev/null || fail "$EXIT_MACHINE" \
        "docker is not on PATH; install Docker Engine (https://docs.docker.com/engine/install/), or run without it: bash train.sh --local"
    if ! answer=$(timeout 30 docker version --format '{{.Server.Version}}' 2>&1); then
        case $answer in
            *'permission denied'*) fail "$EXIT_MACHINE" \
                "you may not use the Docker engine; run 'sudo usermod -aG docker $(id -un)' and log in again" ;;
            *) fail "$EXIT_MACHINE" \
                "the Docker engine does not answer (${answer##*$'\n'}); start it with 'sudo systemctl start docker', or check DOCKER_HOST" ;;
        esac
    fi
}

# --- The local environment: .venv ---------------------------------------------------------------------

need_linux_x86_64() {
    [[ $(uname -sm) == 'Linux x86_64' ]] || fail "$EXIT_MACHINE" \
        "this is $(uname -sm) and the packages of requirements.txt are built for Linux x86_64; use such a machine"
}

find_python() { # prints the first Python 3.12 or 3.11 that really starts (a pyenv shim may not) and can make a venv
    local name path version without_venv=
    for name in python3.12 python3.11 python3; do
        while IFS= read -r path; do
            version=$("$path" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
            [[ $version == 3.12 || $version == 3.11 ]] || continue
            if "$path" -c 'import ensurepip, venv' 2>/dev/null; then
                printf '%s\n' "$path"
                return
            fi
            without_venv=$version
        done < <(type -aP "$name")
    done
    [[ -z $without_venv ]] || fail "$EXIT_MACHINE" \
        "Python $without_venv cannot make virtual environments here; on Debian or Ubuntu: sudo apt install python$without_venv-venv"
    fail "$EXIT_MACHINE" \
        "neither Python 3.12 nor 3.11 was found on PATH; on Ubuntu 24.04 or Debian 12: sudo apt install python3 python3-venv"
}

lock_installed() { # LOCK: does .venv work, and does it hold exactly this file?
    local stamp="$root/.venv/$1.sha256"
    [[ -f $stamp && $(<"$stamp") == "$(sha256sum <"$root/$1")" ]] && "$root/.venv/bin/python" -c '' 2>/dev/null
}

install_lock() { # LOCK: the stamp is written last, so that an interrupted set-up is done again
    local lock=$1 quiet=(--quiet)
    if [[ -t 2 ]]; then quiet=(); fi
    rm -f "$root/.venv/$lock.sha256"
    "$root/.venv/bin/python" -m pip install "${quiet[@]}" --disable-pip-version-check --no-input \
        --no-deps --require-hashes -r "$root/$lock" >&2 || fail "$EXIT_MACHINE" \
        "$lock could not be installed into .venv (pip says why above); it needs a package index and 6 GB of disk; the same command tries again"
    sha256sum <"$root/$lock" >"$root/.venv/$lock.sha256"
}

ensure_venv() { # [dev]: make .venv hold requirements.txt, and for dev requirements-dev.txt too
    local python started=$SECONDS changed='' turn
    need_linux_x86_64
    exec {turn}<"$root"
    if ! flock --nonblock "$turn"; then
        say 'another set-up of .venv is running; waiting for it'
        flock "$turn"
    fi
    if ! lock_installed requirements.txt; then
        python=$(find_python)
        say "setting .venv up from requirements.txt with $python: once, 2 to 5 minutes, 6 GB"
        rm -f "$root"/.venv/*.sha256
        "$python" -m venv --clear "$root/.venv" || fail "$EXIT_MACHINE" \
            "$root/.venv could not be made (see above); free disk, or make the folder writable"
        install_lock requirements.txt
        changed=1
    fi
    if [[ ${1:-} == dev ]] && ! lock_installed requirements-dev.txt; then
        install_lock requirements-dev.txt
        changed=1
    fi
    if [[ -n $changed ]]; then say ".venv is ready ($((SECONDS - started)) s)"; fi
    exec {turn}<&-
}
