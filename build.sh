#!/usr/bin/env bash
# Build the image that train.sh runs.
#
#   bash build.sh
#
# Environment:
#   IMAGE              name of the image                          (default: gptoss_ft:latest)
#   BASE_IMAGE         image to build on: Ubuntu 24.04 or Debian 12   (default: the Dockerfile's CUDA image)
#   DOCKER_BUILD_ARGS  further arguments of `docker build`, quoted as in a shell, e.g. "--no-cache --network host"
#
# Exit codes: 0 built, 2 command line, 4 no Docker, no engine, or the build failed.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/scripts/common.sh"

commit_of_code() { # HEAD, with -dirty when files differ from it; nothing outside a git checkout
    local commit
    [[ $(git -C "$root" rev-parse --show-toplevel 2>/dev/null) == "$root" ]] || return 0
    commit=$(git -C "$root" rev-parse --verify --quiet HEAD) || return 0
    if [[ -n $(git -C "$root" status --porcelain) ]]; then commit+=-dirty; fi
    printf '%s\n' "$commit"
}

version_of_code() { sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$root/gptoss_ft/__init__.py"; }

main() {
    local image=${IMAGE:-gptoss_ft:latest} started=$SECONDS code=0 further arguments
    case ${1:-} in
        '') ;;
        -h | --help) print_head_comment "$root/build.sh"; exit 0 ;;
        *) fail "$EXIT_USAGE" "build.sh takes no argument '$1'; arguments of docker build go into DOCKER_BUILD_ARGS" ;;
    esac
    split_words DOCKER_BUILD_ARGS further
    need_docker

    # --load: also a builder that was chosen with `docker buildx use` hands the image to the engine.
    arguments=(--load --tag "$image" --build-arg "COMMIT=$(commit_of_code)" --build-arg "VERSION=$(version_of_code)")
    if [[ -n ${BASE_IMAGE:-} ]]; then arguments+=(--build-arg "BASE_IMAGE=$BASE_IMAGE"); fi
    say "building $image; the packages of requirements.txt (3 GB to download) take several minutes the first time"
    DOCKER_BUILDKIT=1 docker build "${arguments[@]}" "${further[@]}" "$root" || code=$?
    case $code in
        0) ;;
        130 | 143) exit "$code" ;; # interrupted by the user
        *) fail "$EXIT_MACHINE" "docker build failed (code $code): its first ERROR above says why; it needs the network and 20 GB of disk; the same command continues" ;;
    esac

    say "built $image in $((SECONDS - started)) s: $(docker image inspect --format '{{.Id}} {{.Size}}' "$image" \
        | awk '{ printf "%s, %.1f GB", $1, $2 / 1e9 }')"
    if [[ $image == gptoss_ft:latest ]]; then
        say 'next: bash train.sh'
    else
        say "next: IMAGE=$(printf %q "$image") bash train.sh"
    fi
}

main "$@"
