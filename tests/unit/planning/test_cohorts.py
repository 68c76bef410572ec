"""Byzantine majorities where not all clients can take part, against every cohort that can be drawn."""

import json
from itertools import combinations
from math import prod

import numpy as np
import pytest
import yaml

from byzdist.participation import bernoulli
from byzdist.planning.plan import plan
from byzdist.planning.subject import Options
from byzdist.rounds import Round
from tests.support.cases import BASE

ROUNDS, N, B, C = 30, 7, 3, 3
LINES = [[0, 1, 2, 3, 4, 5, 6], [3, 4, 5], [], [0, 5], [6], [0, 1, 2, 4, 6]]


def majority(able, size):
    """The share of all cohorts of the able clients in which more than half are Byzantine, of ids 4, 5 and 6."""
    drawn = list(combinations(able, min(size, len(able))))
    return sum(2 * sum(client >= N - B for client in cohort) > len(cohort) for cohort in drawn) / len(drawn)


@pytest.mark.parametrize("name", ["bernoulli", "trace"])
def test_a_majority_is_as_likely_as_among_all_cohorts_of_those_who_can_take_part(name, tmp_path):
    trace = tmp_path / "trace.txt"
    trace.write_text("\n".join(" ".join(map(str, line)) for line in LINES) + "\n")
    models = {"bernoulli": {"name": "bernoulli", "q": 0.6}, "trace": {"name": "trace", "path": str(trace)}}
    clients = {"count": N, "byzantine": B, "availability": models[name]}
    method = {"name": "byz_vr_marina_pp", "step_size": 0.1, "p": 0.2, "cohort": C, "full_cohort": 5}
    path = tmp_path / "config.yaml"
    aggregation = {"rule": "trimmed_mean", "allow_breakdown": True}
    tree = {**BASE, "rounds": ROUNDS, "clients": clients, "method": method, "aggregation": aggregation}
    path.write_text(yaml.safe_dump(tree))
    found = json.loads(plan(str(path), options=Options(probes=False)).json())["participation"]

    def able(k):
        return bernoulli(Round(k, BASE["seed"]), N, q=0.6).tolist() if name == "bernoulli" else LINES[k % len(LINES)]

    coins = [Round(k, BASE["seed"]).rng("coin").random() < 0.2 for k in range(1, ROUNDS + 1)]
    chances = [majority(able(k), 5 if full else C) for k, full in enumerate(coins, 1)]
    assert 0 < sum(coins) < ROUNDS
    for full, key in ((False, "majority_with_declared"), (True, "full_majority_with_declared")):
        of_kind = [chance for chance, coin in zip(chances, coins, strict=True) if coin is full]
        assert found[key] == pytest.approx(np.mean(of_kind), rel=1e-12)
    assert found["rounds_to_first_with_declared"] == pytest.approx(1 / np.mean(chances), rel=1e-12)
    assert found["none_in_run_with_declared"] == pytest.approx(prod(1 - chance for chance in chances), rel=1e-9)
    sizes = [len(able(k)) for k in range(1, ROUNDS + 1)]
    assert found["available"] == {"mean": pytest.approx(np.mean(sizes)), "least": min(sizes)}


@pytest.mark.parametrize("line, warned", [("0 1 2 3 4 5 6", False), ("0 6", True)])
def test_a_cohort_that_is_safe_if_all_can_take_part_may_not_be_if_few_can(line, warned, tmp_path):
    """A trimmed mean withstands one of three, and none of two."""
    (tmp_path / "trace.txt").write_text(line + "\n")
    clients = {"count": N, "byzantine": 1, "availability": {"name": "trace", "path": str(tmp_path / "trace.txt")}}
    method = {"name": "sgd", "step_size": 0.1, "cohort": C, "clip": "none"}
    path = tmp_path / "config.yaml"
    aggregation = {"rule": "trimmed_mean", "allow_breakdown": True}
    path.write_text(yaml.safe_dump({**BASE, "clients": clients, "method": method, "aggregation": aggregation}))
    found = plan(str(path), options=Options(probes=False)).warnings
    assert any("the run has none of them with probability 0" in warning for warning in found) is warned
