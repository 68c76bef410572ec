#!/usr/bin/env bash
# Rehearse a run on two hosts on one machine: two network namespaces, each with its own address, and a cable (root only).
#
# usage: launch/netns.sh [CONFIG [key=value ...]]     the server and a worker on one "host", two workers on the other
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=setup.sh
source launch/setup.sh ""

config=${1:-configs/quickstart.yaml}
[ $# -eq 0 ] || shift
one=byzdist-one-$$ two=byzdist-two-$$
folder=$(mktemp -d)

clean_up() {
    for process in "${processes[@]}"; do kill "$process" 2>/dev/null || true; done
    for host in $one $two; do ip netns del "$host" 2>/dev/null || true; done
    rm -rf "$folder"
}
processes=()
trap clean_up EXIT

ip netns add $one
ip netns add $two
ip link add eth0 netns $one type veth peer name eth0 netns $two
for host in $one $two; do
    address=10.99.0.1
    [ "$host" = $one ] || address=10.99.0.2
    ip -n "$host" addr add "$address/24" dev eth0
    ip -n "$host" link set lo up
    ip -n "$host" link set eth0 up
done

export TORCH_CPP_LOG_LEVEL=ERROR MASTER_ADDR=10.99.0.1 MASTER_PORT=29500 WORLD_SIZE=4 OMP_NUM_THREADS=1
"$venv/bin/byzdist" keys --workers 3 --out "$folder/keys" >/dev/null

start() { # host, rank, words...
    local host=$1 rank=$2 key=BYZDIST_SECRET_FILE=$folder/keys/secret
    [ "$rank" = 0 ] || key=BYZDIST_KEY_FILE=$folder/keys/workers/worker-$rank.key
    shift 2
    env RANK="$rank" "$key" ip netns exec "$host" "$venv/bin/python" -m byzdist run "$config" "$@" &
    processes+=($!)
}
start $two 2 "$@"
start $two 3 "$@"
start $one 1 "$@"
start $one 0 "$@" --out "$folder/run"
wait "${processes[3]}"
for process in "${processes[@]:0:3}"; do wait "$process"; done
