"""Pieces check themselves against the run: those of the package, those of a user, and one inside another."""

import re

import pytest

from byzdist.aggregation import aggregate
from byzdist.config.reading import parse
from byzdist.errors import ConfigError
from byzdist.methods import Method
from byzdist.registry import RunFacts
from tests.support.cases import BASE

PIECES = "tests.support.pieces"
CLIENTS = BASE["clients"]


def test_a_piece_of_a_users_own_refuses_a_run_that_does_not_suit_it():
    compression = {"name": f"{PIECES}:Paired", "count": 3}
    with pytest.raises(ConfigError, match=r"^compression: 9 clients are no pairs; add one \(3 values each\)\.$"):
        parse({**BASE, "compression": compression})
    config = parse({**BASE, "compression": compression, "clients": {**CLIENTS, "count": 10}})
    assert config.compression.parameters == {"count": 3}


def test_a_rule_is_told_of_how_many_vectors_it_will_see():
    def configuration(margin, declared):
        rule = {"name": f"{PIECES}:cautious", "margin": margin}
        return {
            **BASE,
            "method": {"name": "sgd", "step_size": 0.1, "cohort": 5, "full_cohort": 8},
            "clients": {**CLIENTS, "byzantine": 1},
            "aggregation": {"rule": rule, "pre": [{"name": "bucketing", "size": 2}], "declared_byzantine": declared},
        }

    cohorts = re.escape("{'full_cohort': 8, 'cohort': 5}")
    parse(configuration(margin=1, declared=1))
    for margin, declared, short in (
        (2, 1, "{'cohort': 3}"),
        (3, 1, "{'full_cohort': 4, 'cohort': 3}"),
        (1, 2, "{'full_cohort': 4, 'cohort': 3}"),
    ):
        complaint = (
            rf"^aggregation\.rule\.margin: {margin} is more than cohorts give: {re.escape(short)} of {cohorts}\.$"
        )
        with pytest.raises(ConfigError, match=complaint):
            parse(configuration(margin, declared))


def test_an_entry_of_several_attacks_is_named_by_its_place():
    attack = [{"name": "zero", "rounds": [0, 1]}, {"name": "mimic", "target": 7, "clients": [8]}]
    with pytest.raises(ConfigError, match=r"^attack\.1\.target: client 7 is not one of the honest clients 0\.\.4"):
        parse({**BASE, "attack": attack})


def test_a_check_that_fails_is_the_pieces_fault():
    with pytest.raises(
        ConfigError, match=f"^attack: the check of '{PIECES}:broken' ended with ZeroDivisionError: by nought"
    ):
        parse({**BASE, "attack": f"{PIECES}:broken"})


@pytest.mark.parametrize(
    ("inner", "complaint"),
    [
        ({"name": "monna", "pivot": 1}, r"rule\.rule\.pivot: a row has no fixed client"),
        ({"name": "multi_krum", "selected": 6}, r"rule\.rule\.selected: 6 is more than the 5 vectors"),
    ],
)
def test_a_rule_inside_another_checks_itself_as_well(inner, complaint):
    rule = {"name": "ctma", "rule": inner}
    with pytest.raises(ConfigError, match=rf"^aggregation\.{complaint}"):
        parse({**BASE, "aggregation": {"rule": rule}})
    assert aggregate([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [6.0]], rule, f=1).shape == (
        1,
    )  # no run, nothing to check


def test_a_method_need_not_have_the_usual_parameters():
    run = RunFacts(clients=3, byzantine=1, declared=1, cohorts={}, vectors={})
    Method.check_run(run, "method", rate=0.1)
    with pytest.raises(ConfigError, match=r"^method\.cohort: 4 of 3 clients"):
        Method.check_run(run, "method", cohort=4)
    with pytest.raises(ConfigError, match=r"^method\.clip_max: it limits the level"):
        Method.check_run(run, "method", cohort=3, clip="none", clip_max=1.0)


def test_what_is_checked_stays_as_it_was_given():
    given = {
        **BASE,
        "data": {"name": "synthetic", "split": {"name": "iid"}},
        "attack": [{"name": "zero", "clients": [7]}],
    }
    copied = repr(given)
    config = parse(given)
    assert repr(given) == copied
    assert config.data.parameters["split"].parameters == {"holders": "honest"}
    assert config.attacks[0].parameters == {"clients": [7]}
