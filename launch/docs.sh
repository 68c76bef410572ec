#!/usr/bin/env bash
# The documentation site: ./launch/docs.sh shows it at 127.0.0.1:8000 and follows changes; ./launch/docs.sh build makes it in build/site,
# and fails at a link that leads nowhere.
set -euo pipefail
# shellcheck source=setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" docs
cd "$root"
export NO_MKDOCS_2_WARNING=1 PYTHONPATH=launch
if [ "${1:-serve}" = build ]; then set -- build --strict --quiet "${@:2}"; fi
exec "$venv/bin/python" -m mkdocs "${@:-serve}" --config-file launch/website/mkdocs.yml
