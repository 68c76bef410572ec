"""What the collective transport really sends, by its own count, against a count from the metrics alone."""

import pytest

from tests.cases import RAND_K, case
from tests.harness import train

HEADER, IDS = 64, 64  # bytes; a request's header, and the room for the ids of a cohort of 5
D, K, CLIENTS = 12, 5, 9


@pytest.mark.parametrize("workers", [2, 5])
def test_no_more_is_sent_than_is_needed(tmp_path, workers):
    config = {**case("none", RAND_K), "transport": {"name": "collective"}}
    run = train(tmp_path, config, workers=workers)
    model = 8 * D
    holds = dict.fromkeys(range(workers), -1)  # the round whose model a worker holds
    spared = 0
    for line in run.metrics:
        hosts = {client % workers for client in line["cohort"]}
        if line["kind"] == "full":
            hosted = [sum(client % workers == worker for client in line["cohort"]) for worker in range(workers)]
            # Everyone's ids need not be sent; each turn of a gather takes one message from each worker.
            assert line["bytes_down"] == workers * (HEADER + model)
            assert line["bytes_up"] == max(hosted) * workers * (HEADER + model)
            hosts = set(range(workers))
        else:
            lacking = sum(holds[worker] != line["round"] - 1 for worker in hosts)
            spared += len(hosts) - lacking
            assert line["bytes_down"] == len(hosts) * (HEADER + IDS + model) + lacking * model
            assert line["bytes_up"] == len(line["cohort"]) * (HEADER + 8 * K)
        for worker in hosts:
            holds[worker] = line["round"]
    assert spared > 10, "workers that held x^{k-1} were not sent it again"
