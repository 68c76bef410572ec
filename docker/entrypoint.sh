#!/bin/sh
# The command of a container: `cluster CONFIG [key=value ...]` makes it one rank of the compose cluster; anything else goes to byzdist.
#
# ROLE      server, worker (WORKERS of them), or byzantine (one, which hosts the run's last client)
# WORKERS   the number of good workers; the run has one client more
# RANK      the rank of a worker; by default the number that compose gave the container
set -eu

if [ "${1:-}" != cluster ]; then
    exec byzdist "$@"
fi
shift
config=$1
shift

case $ROLE in
server) RANK=0 ;;
byzantine) RANK=$((WORKERS + 1)) ;;
worker)
    # Compose names containers <project>-worker-<number> (before version 2 with underscores), and its name server knows the names.
    if [ -z "${RANK:-}" ]; then
        name=$(getent -s dns hosts "$(hostname -i | cut -d' ' -f1)" | awk '{print $2}')
        RANK=$(echo "${name%%.*}" | sed -n 's/.*[-_]\([0-9][0-9]*\)$/\1/p')
    fi
    if [ -z "$RANK" ]; then
        echo "entrypoint: this worker's name (${name:-none}) has no number; set RANK to 1..$WORKERS." >&2
        exit 2
    fi
    ;;
*)
    echo "entrypoint: ROLE is '$ROLE'; it must be server, worker or byzantine." >&2
    exit 2
    ;;
esac
export RANK WORLD_SIZE=$((WORKERS + 2))
if [ "$RANK" = 0 ]; then
    set -- "$@" --resume # a restarted container continues the run
fi
exec python3 -m byzdist run "$config" "clients.count=$((WORKERS + 1))" --out /runs/run "$@"
