#!/usr/bin/env bash
# Test the compose cluster: build, train, kill a worker, stop and start the server, cut a worker off, and check the result.
#
# usage: docker/try.sh      exit code 0: passed; 1: failed; 3: not possible on this machine, for the reason that is printed
#
# BASE_IMAGE and TORCH are passed to the build (see Dockerfile). If this machine has the same Python version as the base image,
# this machine's pip fetches the packages, and the build needs no network.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cannot() {
    echo "docker/try.sh: not tried: $*" >&2
    exit 3
}
fail() {
    echo "docker/try.sh: FAILED: $*" >&2
    compose logs --no-color --tail 40 >&2 || true
    exit 1
}
say() { printf '%4ds  %s\n' $SECONDS "$*"; }

command -v docker >/dev/null || cannot "there is no docker command."
docker info >/dev/null 2>&1 || cannot "no container engine can be reached (docker info fails)."
if docker compose version >/dev/null 2>&1; then composer=(docker compose); else composer=(docker-compose); fi
command -v "${composer[0]}" >/dev/null || cannot "there is no docker compose."

export BASE_IMAGE=${BASE_IMAGE:-python:3.12-slim} TORCH=${TORCH:-$(grep ^torch launch/constraints.txt)}
docker image inspect "$BASE_IMAGE" >/dev/null 2>&1 || docker pull --quiet "$BASE_IMAGE" >/dev/null 2>&1 ||
    cannot "the base image $BASE_IMAGE is not here and cannot be pulled; set BASE_IMAGE."

export COMPOSE_PROJECT_NAME=byzdist-try-$$ BYZDIST_IMAGE=byzdist-try WORKERS=4
scratch=$(mktemp -d)
export BYZDIST_KEYS=$scratch/keys BYZANTINE_KEY=$scratch/keys/workers/worker-5.key
# With so many rounds, the run ends only when this script ends it.
export CONFIG="/configs/cluster/compose.yaml rounds=1000000 evaluate.every=1000"

compose() { "${composer[@]}" --file docker/compose.yaml "$@"; }
clean_up() {
    compose down --volumes --timeout 5 >/dev/null 2>&1 || true
    rm -rf "$scratch" docker/wheels
}
trap clean_up EXIT

container() { # the id of a service's container with a number
    docker ps --all --quiet --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" \
        --filter "label=com.docker.compose.service=$1" --filter "label=com.docker.compose.container-number=${2:-1}"
}
in_server() { docker exec "$(container server)" "$@"; }
rounds() { in_server cat /runs/run/metrics.jsonl 2>/dev/null | wc -l; }
news() { in_server grep -c "\"news\":.*$1" /runs/run/metrics.jsonl 2>/dev/null || true; }
until_true() { # what, seconds, command...
    local what=$1 until=$((SECONDS + $2))
    shift 2
    until "$@"; do
        if [ $SECONDS -gt $until ]; then fail "waited in vain until $what."; fi
        sleep 1
    done
    say "$what"
}
more_rounds() { # whether more than 200 rounds have passed since round $1
    [ "$(rounds)" -gt $(($1 + 200)) ]
}
happened() { # whether event $1 is in the metrics more than $2 times
    local times
    times=$(news "$1")
    [ "${times:-0}" -gt "$2" ]
}

healthy() { [ "$(docker inspect --format '{{.State.Health.Status}}' "$(container server)")" = healthy ]; }

python_version='import sys; print("%d.%d" % sys.version_info[:2])'
if [ "$(python3 -c "$python_version")" = "$(docker run --rm "$BASE_IMAGE" python3 -c "$python_version")" ]; then
    say "fetching packages with this machine's pip"
    mkdir -p docker/wheels "$scratch/source"
    cp -r pyproject.toml README.md LICENSE byzdist "$scratch/source" # a build leaves files in its source folder
    python3 -m pip wheel --quiet --disable-pip-version-check --wheel-dir docker/wheels \
        --constraint launch/constraints.txt "$TORCH" setuptools "$scratch/source" 2>&1 | grep -v ^WARNING || true
    rm -f docker/wheels/byzdist-*
    export PIP_OPTIONS="--no-index"
fi
say "building on $BASE_IMAGE"
compose build server >"$scratch/build.log" 2>&1 || { cat "$scratch/build.log" >&2 && fail "the build failed."; }

docker run --rm --volume "$scratch:/scratch" --user "$(id -u)" --entrypoint byzdist "$BYZDIST_IMAGE" \
    keys --workers 5 --out /scratch/keys >/dev/null || fail "no keys were made."
if [ "$(id -u)" = 0 ]; then chown -R 10001 "$BYZDIST_KEYS"; else BYZDIST_USER=$(id -u) && export BYZDIST_USER; fi
chmod 755 "$scratch"

say "starting a server, $WORKERS workers and a Byzantine one"
compose up --detach --scale "worker=$WORKERS" >/dev/null 2>&1 || fail "the cluster did not start."
for rank in 1 2 3 4 5; do until_true "worker $rank has joined" 180 happened "worker $rank joined" 0; done
until_true "rounds go by" 60 more_rounds "$(rounds)"
until_true "the engine finds the server healthy" 90 healthy

lost=$(news "worker 2 left") joined=$(news "worker 2 joined")
say "killing every process of worker 2's container"
docker exec "$(container worker 2)" python3 -c 'import os, signal; os.kill(-1, signal.SIGKILL)' >/dev/null 2>&1 || true
until_true "the server has noticed" 60 happened "worker 2 left" "$lost"
until_true "worker 2 is back" 120 happened "worker 2 joined" "$joined"
until_true "rounds go by" 60 more_rounds "$(rounds)"

say "stopping the server, and starting it again"
before=$(rounds)
compose stop server >/dev/null 2>&1
code=$(docker inspect --format '{{.State.ExitCode}}' "$(container server)")
[ "$code" = 0 ] || fail "the server ended with exit code $code."
docker start "$(container server)" >/dev/null
until_true "rounds continue after the last ones" 180 more_rounds "$before"

lost=$(news "worker 3 left") joined=$(news "worker 3 joined")
network=${COMPOSE_PROJECT_NAME}_cluster
say "cutting worker 3 off the network"
docker network disconnect "$network" "$(container worker 3)"
until_true "rounds go by without it" 90 more_rounds "$(rounds)"
until_true "the server has given it up" 120 happened "worker 3 left" "$lost"
say "connecting worker 3 again"
docker network connect "$network" "$(container worker 3)"
until_true "worker 3 is back" 180 happened "worker 3 joined" "$joined"
until_true "rounds go by" 60 more_rounds "$(rounds)"

say "ending the run"
compose stop --timeout 60 server >/dev/null 2>&1
docker run --rm --volume "${COMPOSE_PROJECT_NAME}_runs:/runs" --entrypoint python3 --user 10001 \
    --volume "$PWD/docker/check.py:/check.py:ro" "$BYZDIST_IMAGE" /check.py /runs/run || fail "the result is wrong."
say "all checks passed"
