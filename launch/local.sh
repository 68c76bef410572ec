#!/usr/bin/env bash
# Train on this machine: ./launch/local.sh configs/quickstart.yaml [--workers N] [--out DIR] [key=value ...]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec "$venv/bin/byzdist" run "$@"
