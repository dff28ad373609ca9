#!/usr/bin/env bash
# Run a job in the container, or with --local on this machine without GPU, Docker or hub.
#
#   bash train.sh [COMMAND] [--config FILE] [--set KEY=VALUE ...] [--restart]
#                 [--from CHECKPOINT] [--allow-changed KEY]
#   bash train.sh --local --config configs/smoke.yaml
#   bash train.sh COMMAND ...               any command of train.py; the default is train
#   bash train.sh validate                  what is wrong with config and data (no GPU is asked for);
#                                           so too preview, and prepare --output /outputs/DIR
#   bash train.sh generate --prompt "Hi"    use what was trained; so too evaluate, merge, export and push
#
# The default config is config.yaml of the current folder, else the project's. `--help` shows this; for the
# commands: bash train.sh --local train --help.
#
# In the container the current folder is /job (read-only), so paths in the config are relative to it; a
# config elsewhere is mounted, read-only, at its own path. Results go to OUTPUT_ROOT and belong to the caller.
# A TERM, INT, HUP or USR1 to this script reaches the job, which saves its state and ends with 75; so does `docker stop`,
# which waits for training.grace_seconds and five more.
#
# Environment:
#   OUTPUT_ROOT      folder for results                           (default: outputs)
#   GPTOSS_FT_CACHE  folder for models, data sets, compiled kernels   (default: ~/.cache/gptoss_ft)
#   IMAGE            image that build.sh built                    (default: gptoss_ft:latest)
#   GPUS             all, none, a number, or device=0,1           (default: all)
#   DOCKER_RUN_ARGS  further arguments of `docker run`, quoted as in a shell, e.g. "-v '/my data:/data:ro'"
#                    (rootless Docker or Podman: "--user 0:0"; SELinux: "--security-opt label=disable")
#   passed on by name when set: HF_TOKEN HUGGING_FACE_HUB_TOKEN HF_USER HF_HUB_OFFLINE HF_ENDPOINT PUSH_TO_HUB
#                    RUN_EVALUATION WANDB_* NO_COLOR COLUMNS and the proxy variables
#
# Exit codes: those of the job (README); 2 command line; 4 the machine, Docker's own 125 to 127 included.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/scripts/common.sh"

# A closed standard input (some schedulers) becomes an empty one.
{ : <&0; } 2>/dev/null || exec </dev/null

# The CUDA 13.0 build of torch in requirements.txt needs a driver of this branch or newer.
readonly OLDEST_DRIVER=580
readonly PASSED_ON=(
    HF_TOKEN HUGGING_FACE_HUB_TOKEN HF_USER HF_HUB_OFFLINE HF_ENDPOINT PUSH_TO_HUB RUN_EVALUATION NO_COLOR COLUMNS
    HTTP_PROXY HTTPS_PROXY NO_PROXY ALL_PROXY http_proxy https_proxy no_proxy all_proxy
)

# --- Arguments ----------------------------------------------------------------------------------------

read_arguments() { # sets `local_run`, and `job`: what train.py gets
    local_run=''
    job=()
    local argument
    for argument in "$@"; do
        case $argument in
            --local) local_run=1 ;;
            -h | --help)
                if ((${#job[@]} == 0)); then print_head_comment "$root/train.sh"; exit 0; fi
                job+=("$argument") ;;
            *) job+=("$argument") ;;
        esac
    done
}

without_gpu() { # commands that look at files alone take none, unless GPUS asks for it
    if [[ ${job[0]:-} == @(validate|preview|prepare|schema|push) ]]; then export GPUS=${GPUS:-none}; fi
}

add_default_config() { # to a job that names none
    local first=${job[0]:-}
    [[ -z $first || $first == -* || $first == train || $first == @(validate|preview|prepare) ]] || return 0
    [[ " ${job[*]} " != *' --config'[\ =]* && " ${job[*]} " != *' --help '* ]] || return 0
    if [[ -e config.yaml ]]; then job+=(--config config.yaml); else job+=(--config "$root/config.yaml"); fi
}

# --- On this machine ----------------------------------------------------------------------------------

run_locally() {
    ensure_venv
    export GPTOSS_FT_CACHE=${GPTOSS_FT_CACHE:-~/.cache/gptoss_ft}
    export GPTOSS_FT_OUTPUT_ROOT=${GPTOSS_FT_OUTPUT_ROOT:-${OUTPUT_ROOT:-$PWD/outputs}}
    export PYTHONDONTWRITEBYTECODE=1
    exec "$root/.venv/bin/python" "$root/train.py" "${job[@]}"
}

# --- In the container ---------------------------------------------------------------------------------

need_image() {
    docker image inspect "$image" >/dev/null 2>&1 || fail "$EXIT_MACHINE" \
        "there is no image $image; build it first: $([[ $image == gptoss_ft:latest ]] || printf 'IMAGE=%q ' "$image")bash $(printf %q "$root")/build.sh"
}

need_gpu() {
    local driver
    command -v nvidia-smi >/dev/null || fail "$EXIT_MACHINE" \
        "no NVIDIA driver here (nvidia-smi is not on PATH); install driver $OLDEST_DRIVER or newer, or run without a GPU: bash train.sh --local --config configs/smoke.yaml"
    driver=$(timeout 60 nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>&1 | head -n 1) || true
    [[ $driver =~ ^([0-9]+)\.[0-9.]+$ ]] || fail "$EXIT_MACHINE" \
        "the NVIDIA driver does not answer (nvidia-smi says: $driver); load it, or reboot after an update of it"
    ((BASH_REMATCH[1] >= OLDEST_DRIVER)) || fail "$EXIT_MACHINE" \
        "the NVIDIA driver is $driver and CUDA 13.0 needs $OLDEST_DRIVER or newer; update the driver of this machine"
    has_nvidia_runtime || fail "$EXIT_MACHINE" \
        "Docker cannot reach GPUs here; install the NVIDIA Container Toolkit, then run: sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
}

has_nvidia_runtime() { # as a runtime, as devices that Docker found (CDI), or as the hook that --gpus calls
    local info
    info=$(docker info --format '{{json .}}' 2>/dev/null) || return 1
    [[ $info == *'"nvidia":'* || $info == *'"nvidia.com/gpu'* ]] || command -v nvidia-container-runtime-hook >/dev/null
}

make_folder() { # as the caller: Docker would make it as root
    mkdir -p "$1" && [[ -w $1 ]] || fail "$EXIT_MACHINE" \
        "the folder $1 cannot be written; make it writable or name another one ($2)"
    realpath "$1"
}

mount_() { # SOURCE TARGET [,readonly]: one --mount; its fields are quoted as in CSV, for paths with commas
    run+=(--mount "type=bind,\"source=${1//\"/\"\"}\",\"target=${2//\"/\"\"}\"${3:-}")
}

map_config() { # let every --config name a file that the container sees
    local mapped=() file target
    set -- "${job[@]}"
    while (($# > 0)); do
        if [[ $1 == --config=* ]]; then
            set -- --config "${1#--config=}" "${@:2}"
        fi
        mapped+=("$1")
        if [[ $1 == --config && $# -gt 1 ]]; then
            file=$(realpath -e "$2" 2>/dev/null) \
                || fail "$EXIT_USAGE" "there is no config file $2; examples are in $root/configs"
            show_to_container "$file"
            mapped+=("$target")
            shift
        fi
        shift
    done
    job=("${mapped[@]}")
}

show_to_container() { # FILE: sets `target`, its path there; mounts it when it is not in the current folder
    local here
    here=$(realpath .)
    case $1 in
        "${here%/}"/*) target=${1#"${here%/}/"} ;;
        /cache/* | /outputs/* | /job/*) target=/job-config/${1##*/}; mount_ "$1" "$target" ,readonly ;; # hidden there
        *) target=$1; mount_ "$1" "$1" ,readonly ;;
    esac
}

describe_run() { # fills `run`, what docker run is told of the container, and `outputs`
    local cache name group user
    outputs=$(make_folder "${OUTPUT_ROOT:-outputs}" OUTPUT_ROOT)
    cache=${GPTOSS_FT_CACHE:-~/.cache/gptoss_ft}
    cache=$(make_folder "$cache" GPTOSS_FT_CACHE)
    say "image $image, results in $outputs (there: /outputs), cache in $cache (there: /cache)"

    run=(--rm --pull never --shm-size 8g)
    # The job needs no privilege and writes to its two folders and /tmp only. (/tmp: Triton loads what it
    # compiled, hence exec.)
    run+=(--read-only --tmpfs '/tmp:rw,exec,nosuid,nodev,mode=1777' --cap-drop ALL --security-opt no-new-privileges)
    # Root must still be able to read and write the folders of others, as it can without a container.
    if ((EUID == 0)); then run+=(--cap-add DAC_OVERRIDE); fi
    run+=(--user "$(id -u):$(id -g)")
    user=$(id -un 2>/dev/null) || user=uid$EUID
    run+=(--env "USER=$user" --env "LOGNAME=$user")
    for group in $(id -G); do run+=(--group-add "$group"); done
    mount_ "$(realpath .)" /job ,readonly
    mount_ "$outputs" /outputs
    mount_ "$cache" /cache
    run+=(--env "GPTOSS_FT_UMASK=$(umask)" --env "GPTOSS_FT_OUTPUT_ROOT=/outputs")
    run+=(--env "GPTOSS_FT_IMAGE_ID=$(docker image inspect --format '{{.Id}}' "$image")")
    # By name: a value on a command line can be read by every user of the machine.
    for name in "${PASSED_ON[@]}" "${!WANDB_@}"; do
        if [[ -v $name ]]; then run+=(--env "$name"); fi
    done
}

for_a_question() { # ARGUMENTS of docker run: sets `asking` to those of them that a container beside the job's can have
    # Not a terminal, whose ends of lines are others, and nothing that there may be once.
    asking=()
    while (($# > 0)); do
        case $1 in
            --interactive* | --tty* | --detach | --detach=* | --cidfile=* | --name=* | --attach=*) ;;
            --cidfile | --name | --attach | -a) shift ;;
            *) [[ $1 == -+([itd]) ]] || asking+=("$1") ;;
        esac
        if (($# > 0)); then shift; fi
    done
}

stop_after() { # sets `seconds`, which `docker stop` waits: the grace period and five more
    local asked=() asking grace='' code=0
    seconds=35
    [[ ${job[0]:-} == @(''|-*|train) && " ${job[*]} " != *' --help '* ]] || return 0
    for_a_question "${further[@]}"
    set -- "${job[@]}"
    while (($# > 0)); do
        case $1 in
            --config | --set) asked+=("${@:1:2}") ;;
            --config=* | --set=*) asked+=("$1") ;;
        esac
        shift
    done
    # Only the image can read the config.
    grace=$(timeout --foreground 60 docker run "${run[@]}" "${asking[@]}" --env NVIDIA_VISIBLE_DEVICES=void "$image" \
        setting training.grace_seconds "${asked[@]}" </dev/null 2>/dev/null) || code=$?
    if [[ $code == 0 && $grace =~ ^[0-9]+(\.[0-9]+)?$ ]]; then
        LC_ALL=C printf -v seconds %.0f "$grace"
        seconds=$((seconds + 5))
    elif [[ $code != "$EXIT_USAGE" ]]; then # else something is wrong with the config, which the job will tell
        say "the image does not answer what training.grace_seconds is (code $code); docker stop will wait $seconds s"
    fi
}

for_the_job() { # fills `own`, what docker run is told of this container alone
    own=(--cidfile "$scratch/cid" --stop-timeout "$seconds")
    case ${GPUS:-all} in
        none) own+=(--env NVIDIA_VISIBLE_DEVICES=void) ;; # for engines whose default runtime is NVIDIA's
        device=*) own+=(--gpus "\"$GPUS\"") ;;            # docker reads CSV: device=0,1 is one field
        *) own+=(--gpus "${GPUS:-all}") ;;
    esac
    if [[ -t 0 && -t 1 ]]; then
        own+=(--interactive --tty --env TERM)
    elif [[ -t 0 || -p /dev/stdin || -f /dev/stdin ]]; then
        own+=(--interactive)
    fi
}

pass_signal() { # NAME: to the container, as soon as it runs
    signalled=1
    until docker kill --signal "$1" "$(cat "$scratch/cid" 2>/dev/null)" >/dev/null 2>&1; do
        kill -0 "$client" 2>/dev/null || return 0
        sleep 0.2
    done
}

run_client() { # docker run, in the background so that traps run at once; sets `code`
    # In a session of its own the client gets no signal that a terminal or a scheduler sends to the whole
    # process group, and the job gets each signal once: from here. With a terminal the client must stay in its
    # foreground group; there ctrl-C is a byte that the container's own terminal turns into one INT.
    local session=(setsid)
    if [[ -t 0 && -t 1 ]]; then session=(); fi
    trap 'pass_signal TERM' TERM HUP # a login that ends is a reason to save the state, too
    trap 'pass_signal INT' INT
    trap 'pass_signal USR1' USR1 # what schedulers warn with
    "${session[@]}" docker run "${run[@]}" "$image" "${job[@]}" <&0 &
    client=$!
    while true; do
        signalled=
        code=0
        wait "$client" || code=$?
        [[ -n $signalled ]] || return 0 # else it was a trap that ended the wait
    done
}

run_in_container() {
    local image=${IMAGE:-gptoss_ft:latest} run=() own=() further scratch outputs seconds client signalled code
    split_words DOCKER_RUN_ARGS further
    need_docker
    # First, so that nobody builds an image for a machine that cannot use it.
    if [[ ${GPUS:-all} != none ]]; then need_gpu; fi
    need_image
    scratch=$(mktemp -d)
    # shellcheck disable=SC2064  # the path is meant to be expanded now
    trap "rm -rf $(printf %q "$scratch")" EXIT
    describe_run
    map_config
    stop_after
    for_the_job
    run=("${own[@]}" "${run[@]}" "${further[@]}")
    run_client
    case $code in
        125 | 126 | 127) fail "$EXIT_MACHINE" "docker could not start the container (code $code): it says why above; if that is a read-only file system, try DOCKER_RUN_ARGS=--read-only=false" ;;
        0) say "/outputs in the container is $outputs here" ;;
        *) exit "$code" ;;
    esac
}

read_arguments "$@"
add_default_config
without_gpu
if [[ -n $local_run ]]; then run_locally; else run_in_container; fi
