"""Registered pieces as functions of their parameters."""

import inspect

import numpy as np
import pytest

import byzdist
from byzdist.methods import METHODS
from byzdist.registry import Spec
from byzdist.scripting.keywords import tree_of
from byzdist.scripting.naming import Objects


def test_a_piece_called_with_its_parameters_is_its_spec():
    made = byzdist.byz_vr_marina_pp(step_size=0.1, cohort=4)
    assert made == Spec("byz_vr_marina_pp", {"step_size": 0.1, "cohort": 4})
    assert byzdist.median().name == "coordinate_median"  # an alias
    assert {"step_size", "cohort", "clip"} <= set(inspect.signature(byzdist.byz_vr_marina_pp).parameters)
    assert byzdist.krum.__doc__.startswith(inspect.getdoc(byzdist.krum)[:10]) and "aggregation rules: krum" in repr(
        byzdist.krum
    )
    assert "methods or server optimizers or inner optimizers: sgd" in repr(byzdist.sgd)


def test_a_method_is_found_as_soon_as_it_is_registered():
    assert all(getattr(byzdist, name)().name == name and name in dir(byzdist) for name in METHODS)
    with pytest.raises(AttributeError, match="no attribute 'mine'"):
        byzdist.mine  # noqa: B018
    METHODS.register("mine")(METHODS.get("sgd"))
    try:
        assert byzdist.mine(step_size=1.0).parameters == {"step_size": 1.0}
    finally:
        del METHODS._entries["mine"]


def test_keywords_become_a_configuration():
    settings = {
        "model": "linear", "data": "digits",
        "rounds": 5, "clients": np.int64(9), "byzantine": 2, "rule": byzdist.krum, "pre": ["nnm"], "evaluate": 5,
        "split": byzdist.dirichlet(alpha=0.5), "attack": None, "method": byzdist.sgd(step_size=0.1), "method.cohort": 4,
        "loss": "classification",
    }  # fmt: skip
    assert tree_of(None, settings, Objects()) == {
        "name": "train",
        "model": "linear",
        "data": {"name": "digits", "split": {"name": "dirichlet", "alpha": 0.5}},
        "rounds": 5,
        "clients": {"count": 9, "byzantine": 2},
        "aggregation": {"rule": {"name": "krum"}, "pre": ["nnm"]},
        "evaluate": {"every": 5},
        "method": {"name": "sgd", "step_size": 0.1, "cohort": 4},
        "task": "classification",
    }


def test_sections_are_changed_key_by_key_and_pieces_as_a_whole():
    config = {
        "clients": {"count": 5, "byzantine": 1},
        "method": {"name": "sgd", "step_size": 1.0},
        "data": {"name": "digits"},
    }
    settings = {"clients": {"byzantine": 2}, "method": {"step_size": 2.0}, "data": {"name": "iris"}}
    assert tree_of(config, settings, Objects()) == {
        "clients": {"count": 5, "byzantine": 2},
        "method": {"name": "sgd", "step_size": 2.0},
        "data": {"name": "iris"},
    }
    assert config["clients"] == {"count": 5, "byzantine": 1}
