"""byzdist.scripting.keywords: the keywords of train, and the error for a misspelt one."""

import pytest
import torch

import byzdist
from byzdist.scripting.keywords import tree_of
from byzdist.scripting.naming import Objects


def test_short_and_dotted_keys_are_those_of_a_configuration():
    given = {"clients": 20, "byzantine": 5, "rule": "krum", "method": {"name": "sgd"}, "method.clip": 2.0, "pre": None}
    tree = tree_of(None, given, Objects())
    assert tree["clients"] == {"count": 20, "byzantine": 5} and tree["aggregation"] == {"rule": "krum"}
    assert tree["method"] == {"name": "sgd", "clip": 2.0}


@pytest.mark.parametrize(("word", "meant"), [("rulee", "rule"), ("spilt", "split"), ("byzantines", "byzantine")])
def test_a_misspelt_keyword_is_answered_with_the_keyword_that_is_meant(word, meant):
    with pytest.raises(byzdist.ConfigError, match=f"^{word}: unknown key. Did you mean '{meant}'"):
        byzdist.train("logistic_regression", "digits", **{word: "krum"})


def test_a_key_that_is_given_twice_is_refused():
    with pytest.raises(byzdist.ConfigError, match="^aggregation.rule: aggregation.rule is given twice"):
        tree_of(None, {"rule": "krum", "aggregation.rule": "mean"}, Objects())


def test_what_torch_has_for_a_type_and_a_device_is_their_name():
    tree = tree_of(None, {"dtype": torch.float64, "device": torch.device("cuda", 1)}, Objects())
    assert tree["dtype"] == "float64" and tree["device"] == "cuda:1"


@pytest.mark.parametrize("wrong", [{"out": 3}, {"on_round": 3}, {"workers": 1.5}])
def test_arguments_of_another_kind_are_refused_before_anything_starts(wrong):
    (word,) = wrong
    with pytest.raises(byzdist.ConfigError, match=f"^{word}: .*{wrong[word]}"):
        byzdist.train("logistic_regression", "digits", rounds=1, **wrong)
