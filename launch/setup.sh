# shellcheck shell=bash
# Sourced by the other scripts: makes .venv on first use and leaves it alone while what it was made from is unchanged.
# usage: source launch/setup.sh [EXTRA]; BYZDIST_TORCH=<requirement> replaces the pinned CPU build of torch.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv="$root/.venv"
extra=${1:-}

fingerprint() {
    cat "$root/pyproject.toml" "$root/launch/constraints.txt" "$root/launch/setup.sh"
    echo "$extra ${BYZDIST_TORCH:-}"
}

install() {
    local python
    for python in python3 python3.13 python3.12 python3.11 python3.10; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then break; fi
        python=
    done
    if [ -z "$python" ]; then
        echo "byzdist needs Python 3.10 or newer on the PATH." >&2
        return 1
    fi
    echo "Setting up $venv (once; this installs torch and takes a minute or more)" >&2
    "$python" -m venv "$venv" || return 1
    local pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
    # torch first and pinned: the newest build from the index would bring gigabytes of CUDA packages.
    if [ -n "${BYZDIST_TORCH:-}" ]; then
        "${pip[@]}" "$BYZDIST_TORCH" && "${pip[@]}" --editable "${root}[plot${extra:+,$extra}]" || return 1
    else
        "${pip[@]}" --constraint "$root/launch/constraints.txt" torch &&
            "${pip[@]}" --constraint "$root/launch/constraints.txt" --editable "${root}[plot${extra:+,$extra}]" || return 1
    fi
}

stamp="$venv/.made-from${extra:+-$extra}"
wanted=$(fingerprint | sha256sum)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    install || exit 1
    echo "$wanted" >"$stamp"
fi
