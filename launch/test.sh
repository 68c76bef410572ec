#!/usr/bin/env bash
# Run the tests: ./launch/test.sh [pytest arguments]; without arguments everything but the soaks.
set -euo pipefail
# shellcheck source=setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" dev
cd "$root"
if [ $# -eq 0 ]; then set -- -m "not soak" tests; fi
exec "$venv/bin/python" -m pytest "$@"
