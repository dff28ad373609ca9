#!/usr/bin/env bash
# Run the tests, without GPU, Docker or hub. Sets .venv up first where needed (once, 2 to 5 minutes).
#
#   bash test.sh [ARGUMENTS OF PYTEST]      paths are relative to the project's folder
#
#   bash test.sh tests/data -k masks
#   bash test.sh -m docker                  builds the image and runs it (needs Docker; BASE_IMAGE as for build.sh)
#
# Exit codes: pytest's own; 4 when .venv cannot be set up.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/scripts/common.sh"

ensure_venv dev
cd "$root"
export PYTHONDONTWRITEBYTECODE=1
exec .venv/bin/python -m pytest "$@"
