#!/bin/sh
# What a container does: `cluster CONFIG [key=value ...]` makes it one rank of the compose cluster, all else goes to byzdist.
#
# ROLE      server, worker (as many as WORKERS says), or byzantine (one: the run's last client lives there)
# WORKERS   how many good workers there are; the run has one client more
# RANK      of a worker; found by itself where compose has numbered the containers
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
    # Compose names containers <project>-worker-<number> (before version 2 with underscores), and its name server knows that.
    if [ -z "${RANK:-}" ]; then
        name=$(getent -s dns hosts "$(hostname -i | cut -d' ' -f1)" | awk '{print $2}')
        RANK=$(echo "${name%%.*}" | sed -n 's/.*[-_]\([0-9][0-9]*\)$/\1/p')
    fi
    if [ -z "$RANK" ]; then
        echo "entrypoint: cannot tell this worker's number from its name (${name:-none}); set RANK to 1..$WORKERS." >&2
        exit 2
    fi
    ;;
*)
    echo "entrypoint: ROLE is '$ROLE'; it is one of server, worker, byzantine." >&2
    exit 2
    ;;
esac
export RANK WORLD_SIZE=$((WORKERS + 2))
if [ "$RANK" = 0 ]; then
    set -- "$@" --resume # a container that is started again goes on where it was
fi
exec python3 -m byzdist run "$config" "clients.count=$((WORKERS + 1))" --out /runs/run "$@"
