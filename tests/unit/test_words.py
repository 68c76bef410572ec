"""Hints for misspelt names, keys and commands."""

import logging
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt, MinLen

from byzdist.aggregation import aggregate
from byzdist.config.reading import parse
from byzdist.config.settings import KINDS, all_keys, key_hint, wanted
from byzdist.config.synonyms import KEYS
from byzdist.errors import ConfigError
from byzdist.words import closest, did_you_mean, shown, spelled_bytes, squeeze
from tests.support.cases import BASE


@pytest.mark.parametrize(
    "word, known, expected",
    [
        ("Multi-Krum", ["krum", "multi_krum"], "multi_krum"),
        ("MultiKrum", ["krum", "multi_krum"], "multi_krum"),
        ("krumm", ["krum", "mean"], "krum"),
        ("xyz", ["krum", "mean"], None),
        ("", ["krum"], None),
        ("krum", [], None),
    ],
)
def test_the_closest_word_is_found_whatever_its_spelling(word, known, expected):
    assert closest(word, known) == expected


def test_where_nothing_is_close_all_that_is_known_is_told():
    assert did_you_mean("xyz", ["b", "a"]) == " Known: a, b."
    assert did_you_mean("xyz", []) == " There are no keys here."


def test_values_are_shown_as_a_configuration_spells_them():
    assert [shown(value) for value in (None, True, False, 3, 0.5, "x")] == ["empty", "true", "false", "3", "0.5", "'x'"]
    assert len(shown("x" * 1000)) == 80


def test_a_synonym_leads_to_a_key_or_an_option():
    keys = all_keys()
    for word, key in KEYS.items():
        assert key in keys or key in ("--workers", "--out", "--resume", "--max-restarts"), key
        assert word == squeeze(word)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_an_alias_leads_to_a_piece_and_is_no_name_itself(kind):
    for alias, name in kind.registry.aliases.items():
        assert name in list(kind.registry) and alias not in list(kind.registry)
        assert kind.registry.get(alias) is kind.registry.get(name)
        assert alias in kind.registry


ALIASED: dict[str, dict[str, Any]] = {
    "compression: 'none' is another word for 'identity'": {"compression": "none"},
    "aggregation.rule: 'median' is another word for 'coordinate_median'": {"aggregation": {"rule": "median"}},
    "aggregation.rule: 'rfa' is another word for 'geometric_median'": {
        "aggregation": {"rule": {"name": "rfa", "tolerance": 1e-3}}
    },
    "aggregation.pre.0: 'clipping' is another word for 'clip'": {
        "aggregation": {"rule": "geometric_median", "pre": [{"name": "clipping", "threshold": 1.0}]}
    },
    "attack: 'sign_flip' is another word for 'bit_flip'": {"attack": "sign_flip"},
    "attack.1: 'foe' is another word for 'ipm'": {"attack": [{"name": "zero", "clients": [5]}, "foe"]},
    "method: 'robust_momentum_sgd' is another word for 'momentum_sgd'": {
        "method": {"name": "robust_momentum_sgd", "step_size": 0.1, "cohort": 5}
    },
    "model: 'logreg' is another word for 'logistic_regression'": {"model": "logreg"},
}


@pytest.mark.parametrize("said", ALIASED)
def test_an_alias_works_says_so_once_and_leaves_the_name_in_the_configuration(caplog, said):
    canonical = said.split("'")[3]
    with caplog.at_level(logging.WARNING, logger="byzdist"):
        config = parse({**BASE, **ALIASED[said]})
    assert [message for message in caplog.messages if message.startswith(said)] == [
        f"{said}, which the run's files use."
    ]
    caplog.clear()
    dumped = config.model_dump(exclude_none=True)
    with caplog.at_level(logging.WARNING, logger="byzdist.registry"):
        assert parse(dumped) == config
    assert not [message for message in caplog.messages if "another word" in message]
    assert f"'{canonical}'" in str(dumped)


def test_aliases_of_data_and_splits_work(tmp_path, caplog):
    file = tmp_path / "file.txt"
    file.write_text("1 1:0.5\n0 2:0.5\n")
    config = parse({**BASE, "data": {"name": "svmlight", "path": str(file)}})
    assert config.data.name == "libsvm"
    assert "data: 'svmlight' is another word for 'libsvm'" in caplog.text


def test_an_alias_works_in_the_library_and_in_a_rule_around_a_rule(vectors):
    assert aggregate(vectors, "cwmed").equal(aggregate(vectors, "coordinate_median"))
    around = {"name": "ctma", "rule": "median"}
    assert aggregate(vectors, around, f=2).equal(aggregate(vectors, {"name": "ctma", "rule": "coordinate_median"}, f=2))


@pytest.fixture
def vectors():
    import torch

    return torch.randn(9, 5, generator=torch.Generator().manual_seed(3))


HINTS = {
    # a key here, differently spelled
    "method.stepsize": "'step_size'",
    "method.batchSize": "'batch_size'",
    "transport.min-replies": "'min_replies'",
    "clients.byzantin": "'byzantine'",
    # a word of the field
    "lr": "'method.step_size'",
    "learning_rate": "'method.step_size'",
    "method.lr": "'step_size'",
    "n_clients": "'clients.count'",
    "clients.n_clients": "'count'",
    "n_byzantine": "'clients.byzantine'",
    "f": "'aggregation.declared_byzantine'",
    "epochs": "'rounds'",
    "batch": "'method.batch_size'",
    "weight_decay": "'method.weight_decay'",
    "l2_reg": "'model.l2'",
    "aggregator": "'aggregation.rule'",
    "aggregation.aggregator": "'rule'",
    "dataset": "'data.name'",
    "optimizer": "'method.name'",
    "backend": "'transport.name'",
    "transport.timeout": "'deadline'",
    "gpu": "'device'",
    "eval_interval": "'evaluate.every'",
    "workers": "the option --workers",
    "data.num_workers": "'workers'",
    "output_dir": "the option --out",
    # a key of another section
    "step_size": "'method.step_size'",
    "cohort": "'method.cohort'",
    "rule": "'aggregation.rule'",
    "split": "'data.split'",
    "clip": "'method.clip'",
    "deadline": "'transport.deadline'",
    "clients_count": "'clients.count'",
    "method_step_size": "'method.step_size'",
    "byzantin": "'clients.byzantine'",
    "clients.rounds": "'rounds'",
}


@pytest.mark.parametrize("where", HINTS)
def test_an_unknown_key_leads_to_the_one_that_was_meant(where):
    section, _, word = where.rpartition(".")
    tree = {**BASE}
    if section:
        tree[section] = {**tree.get(section, {}), word: 1}
    else:
        tree[word] = 1
    with pytest.raises(ConfigError) as error:
        parse(tree)
    assert str(error.value) == f"{where}: unknown key. Did you mean {HINTS[where]}?"


def test_a_parameter_of_another_piece_is_told_as_such():
    with pytest.raises(
        ConfigError, match=r"^method.momentum: unknown key. It is a parameter of .*\bmomentum_sgd\b.*\. Known: "
    ):
        parse({**BASE, "method": {**BASE["method"], "momentum": 0.9}})
    with pytest.raises(ConfigError, match=r"^attack.0.epsilon: unknown key. It is a parameter of ipm. Known: sigma."):
        parse({**BASE, "attack": [{"name": "gaussian", "epsilon": 0.5}]})


def test_a_word_that_is_like_no_key_gets_the_list():
    assert key_hint("method.qqqqqq", ["p", "clip"]) == " Known: clip, p."


def test_a_name_of_another_kind_is_told_as_such():
    with pytest.raises(ConfigError, match="^aggregation.rule: unknown rule 'nnm'. It is the name of a pre-aggregation"):
        parse({**BASE, "aggregation": {"rule": "nnm"}})
    with pytest.raises(ConfigError, match="^attack: unknown attack 'rand_k'. It is the name of a compressor"):
        parse({**BASE, "attack": "rand_k"})


def test_a_name_with_a_dot_is_told_how_own_pieces_are_written():
    with pytest.raises(ConfigError, match="^model: unknown model 'my.nets.Big'.* written 'my.nets:Big'"):
        parse({**BASE, "model": "my.nets.Big"})


@pytest.mark.parametrize(
    "annotation, words",
    [
        (int, "integer"),
        (Annotated[int, Ge(1)], "integer, at least 1"),
        (Annotated[float, Gt(0), Le(1)] | None, "number, greater than 0, at most 1"),
        (Annotated[float, Ge(0), Lt(1)] | Literal["none"], "number, at least 0, less than 1, or 'none'"),
        (Literal["a", "b"], "'a' or 'b'"),
        (Annotated[list[Annotated[int, Ge(1)]], MinLen(1)], "list of (integer, at least 1), 1 or more of them"),
        (bool | Literal["auto"], "true or false, or 'auto'"),
        (str | dict[str, Any], "text, or name or {name: ..., parameters}"),
        (Any, "anything"),
    ],
)
def test_what_an_annotation_allows_is_said_in_words(annotation, words):
    assert wanted(annotation) == words


@pytest.mark.parametrize(
    "count, text",
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (123_456, "123.5 kB"), (5.5e9, "5.5 GB"), (2e13, "20.0 TB")],
)
def test_numbers_of_bytes_have_the_unit_that_suits_them(count, text):
    assert spelled_bytes(count) == text
