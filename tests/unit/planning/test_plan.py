"""The page: what it says, what it leaves out, and the warnings."""

import json
from typing import Any

import numpy as np
import pytest
import yaml

from byzdist.cli.main import main
from byzdist.methods import METHODS
from byzdist.planning.page import duration, percent
from byzdist.planning.plan import plan
from byzdist.planning.probe import in_this_process, probe
from byzdist.planning.subject import Options, Subject
from tests.support.cases import BASE

SOUND = {**BASE, "rounds": 20, "clients": {"count": 20, "byzantine": 5}, "aggregation": {"rule": "trimmed_mean"}}
QUIET = Options(probes=False)


@pytest.fixture
def written(tmp_path):
    """Return what writes a configuration and returns its path."""

    def write(tree=SOUND, **method):
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({**tree, "method": {**SOUND["method"], **method}}))
        return str(path)

    return write


def tree_of(path, *overrides, options=QUIET):
    return json.loads(plan(path, overrides, options).json())


def test_the_page_and_its_json_say_the_same(written, capsys):
    path = written(cohort=10)
    assert main(["plan", path, "--json", "--no-probe"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert main(["plan", path, "--no-probe"]) == 0
    text = capsys.readouterr().out
    assert {"title", "participation", "theory", "costs", "warnings"} == set(tree)
    assert max(map(len, text.splitlines())) <= 100
    assert tree["participation"]["safe_cohort"] == {"cohort": 11, "f": 5} and "11, and f = 5 for it" in text
    assert tree["theory"]["c_delta"] == pytest.approx(2 / (10 - 4) / 2)  # κ = f/(n-2f) of the trimmed mean
    assert set(tree["theory"]["theorem_4.2_step"]) == {"sharp", "paper"}
    assert tree["theory"]["F"] == {"sharp": pytest.approx(np.sqrt(10 / 8)), "paper": pytest.approx(np.sqrt(12))}


def test_bytes_and_gradients_are_those_that_a_run_counts(written):
    """Against the metrics of a run on one worker, which sends a request for each round."""
    path = written(cohort=4)
    subject = Subject.read(path, [], QUIET)
    found = tree_of(path, "transport.name=local")["costs"]
    records = []
    probe(in_this_process(subject.config), each=records.append)
    assert len(records) == 21 and found["bytes_up"] == sum(record.bytes_up for record in records)
    assert found["bytes_down"] == pytest.approx(sum(record.bytes_down for record in records))
    full = sum(record.full for record in records)
    assert found["gradients"] == full * 20 * 90 + (21 - full) * 4 * 2 * 8


REQUIRED: dict[str, dict[str, Any]] = {
    "byz_clip21": {"tau": 1.0},
    "local_steps": {"steps": 3, "inner": {"name": "sgd", "step_size": 0.1}},
}


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_has_a_page(written, name):
    tree = {**SOUND, "method": {"name": name, "step_size": 0.1, **REQUIRED.get(name, {})}}
    if "cohort" in METHODS.parameters(name, "method") and not getattr(METHODS.get(name), "needs_every_client", False):
        tree["method"]["cohort"] = 20
    path = written()
    with open(path, "w") as file:
        yaml.safe_dump(tree, file)
    assert tree_of(path)["costs"]["dimension"] == 12


def test_what_the_user_knows_takes_the_place_of_what_is_computed(written):
    path = written(cohort=10)
    theory = tree_of(path, options=Options(lipschitz=2.0, mu=0.5, c=0.8, probes=False))["theory"]
    assert (theory["L"], theory["mu"]) == (2.0, 0.5) and theory["c_delta"] == pytest.approx(0.8 * 5 / 20)
    assert theory["theorem_4.2_clip"] == 2.0
    assert theory["theorem_4.2_rate"]["sharp"] == pytest.approx(0.5 * theory["theorem_4.2_step_pl"]["sharp"])


@pytest.mark.parametrize(
    "data, told",
    [
        ({"name": "libsvm", "path": "nowhere.gz"}, "data.path: there is no such file"),
        ({"name": "mine:rows", "where": "worker", "features": [12], "outputs": 2}, "The data lie with the workers"),
    ],
)
def test_without_data_the_rest_is_planned(written, data, told):
    path = written({**SOUND, "data": data}, cohort=4)
    found = plan(path, options=QUIET)
    tree = json.loads(found.json())
    assert tree["participation"]["majority_with_declared"] == pytest.approx(0.03199174406604746)
    assert told in found.text() and "L" not in tree["theory"] and ("costs" in tree) == ("where" in data)


@pytest.mark.parametrize(
    "words, complaint",
    [
        (["nowhere.yaml"], "nowhere.yaml: cannot read the configuration"),
        (["CONFIG", "method.cohrt=3"], "method.cohrt: unknown key"),
        (["CONFIG", "--tune", "data={name: libsvm, path: nowhere.gz}"], "--tune: data.path: there is no such file"),
    ],
)
def test_a_mistake_is_named(written, capsys, words, complaint):
    assert main(["plan", *(written() if word == "CONFIG" else word for word in words)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and complaint in captured.err


@pytest.mark.parametrize(
    "method, tree, told",
    [
        ({"step_size": 0.1}, {}, "method.step_size: 0.1 is"),
        ({"clip": 0.01}, {}, "method.clip: 0.01·‖x^k - x^(k-1)‖ is below D_Q·L"),
        ({"p": 0.9}, {}, "method.p: 0.9, and min(C/n, b/m, ζ_Q/d) is 0.0889"),
        ({"full_cohort": 15}, {}, "method.full_cohort: the theorems want at least 20 clients"),
        (
            {"clip": "none", "cohort": 4},
            {},
            "method.clip: without clipping a round with more than 1 Byzantine clients of 4",
        ),
        ({"cohort": 3}, {}, "with f = 0, trimmed_mean with its steps makes a plain mean"),  # from byzdist.config.advice
        ({"step_size": 9.0}, {}, "method.step_size: 9 is"),  # from byzdist.runtime.advice
    ],
)
def test_what_contradicts_the_theory_is_named(written, method, tree, told):
    found = plan(written({**SOUND, **tree}, **{"cohort": 10, **method}), options=QUIET)
    assert sum(told in warning for warning in found.warnings) >= 1


def test_nothing_is_said_of_a_configuration_that_follows_the_theory(written):
    path = written(cohort=10, p=0.2)
    theory = tree_of(path)["theory"]
    step, clip = theory["theorem_4.2_step"]["sharp"], theory["theorem_4.2_clip"]
    assert tree_of(path, f"method.step_size={step}", f"method.clip={clip}")["warnings"] == []


@pytest.mark.parametrize("split, differ", [("shared", False), ("iid", True)])
def test_the_floor_of_the_theorems_is_named_where_clients_differ(written, split, differ):
    theory = tree_of(written(cohort=10), f"data.split={split}")["theory"]
    assert (theory["zeta_squared"] > 0) is differ
    assert any("grows with ζ²" in note for note in theory["notes"]) is differ


def test_numbers_are_shown_in_units_that_suit_them():
    assert [duration(3.14), duration(600), duration(9000)] == ["3.1 s", "10 min", "2.5 h"]
    assert [percent(0.5), percent(0.9999999), percent(1.0)] == ["50 %", "99.99999 %", "100 %"]
