#!/usr/bin/env bash
# Train on this machine: ./launch/local.sh configs/quickstart.yaml [--workers N] [--out DIR] [key=value ...]
set -euo pipefail
# shellcheck source=setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" "" # "" because otherwise setup.sh would see this script's arguments
exec "$venv/bin/byzdist" run "$@"
