import copy
import logging
import re
from pathlib import Path

import pytest
import yaml

from byzdist.attacks import ATTACKS
from byzdist.config.reading import dump, load, override, parse
from byzdist.config.yaml_reading import read_yaml
from byzdist.errors import ConfigError
from byzdist.registry import Spec
from byzdist.sweeping.axes import read_sweep
from tests.support.cases import BASE, CASES
from tests.support.harness import ROOT


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-3", 0.001),
        ("3e3", 3000),
        ("1E5", 100000),
        ("-2e+3", -2000),
        ("1.e2", 100),
        ("1.5e3", 1500),
        ("1.5e+3", 1500),
        (".5e1", 5),
        ("1.5e-3", 0.0015),
        (".5e-3", 0.0005),
        ("2.5e0", 2.5),
        ("3000.0", 3000.0),
        ("1.0e+16", 1e16),  # what is dumped as a float comes back as one
        ("1e300", 1e300),
        ("1e400", float("inf")),
        ("1e-400", 0),
        (".inf", float("inf")),
        ("1e", "1e"),
        ("e3", "e3"),
        ("0x10", 16),
        ("12", 12),
        ("none", "none"),
        ("null", None),
        ("", None),
        ("yes", True),
        ("'1e-3'", "1e-3"),
        ("[1, a]", [1, "a"]),
        ("{a: {b: 1e-2}}", {"a": {"b": 0.01}}),
    ],
)
def test_yaml_values(text, value):
    found = read_yaml(text, "here")
    assert found == value and type(found) is type(value)


def test_a_merge_gives_way_to_keys_of_its_own():
    assert read_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}", "here")["b"] == {"x": 1, "y": 3}


@pytest.mark.parametrize("name", CASES)
def test_what_is_dumped_is_loaded_as_the_same_configuration(name):
    config = parse(CASES[name])
    again = parse(read_yaml(dump(config), "dump"))
    assert again == config and dump(again) == dump(config)


def test_floats_survive_dump_and_load_to_the_last_bit():
    for value in (1e-3, 0.1, 1 / 3, 1e-300, 123456789.123456789, 5e22):
        config = parse({**BASE, "method": {**BASE["method"], "step_size": value}})
        assert parse(read_yaml(dump(config), "dump")).method.parameters["step_size"] == value


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_the_configurations_that_come_along_are_valid(path):
    overrides = ["rounds=3"]
    tree = yaml.safe_load(path.read_text())
    if "base" in tree:
        for member in read_sweep(path).members()[::5]:
            data = member.tree["data"]
            if "path" in data:
                data = {"name": "synthetic", "split": data.get("split", "shared")}
            assert parse({**member.tree, "data": data}).attacks[0].name in ATTACKS
        return
    if "path" in tree["data"]:
        overrides.append("data={name: synthetic}")
    assert load(path, overrides).rounds == 3


def test_short_forms_stand_for_a_name():
    config = parse(
        {**BASE, "compression": "identity", "attack": "zero", "aggregation": {"rule": "monna", "pre": ["nnm"]}}
    )
    assert (config.compression, config.attack) == (Spec("identity"), Spec("zero"))
    assert (config.aggregation.rule, config.aggregation.pre) == (Spec("monna", {"pivot": None}), [Spec("nnm")])


def test_a_single_step_before_the_rule_needs_no_list_and_a_transport_no_mapping():
    for single in ("nnm", {"name": "nnm"}, ["nnm"]):
        config = parse({**BASE, "aggregation": {"rule": "coordinate_median", "pre": single}, "transport": "collective"})
        assert config.aggregation.pre == [Spec("nnm")] and config.transport.name == "collective"


def test_defaults_are_filled_in():
    config = parse({k: v for k, v in BASE.items() if k not in ("seed", "evaluate", "device", "dtype")})
    assert (config.seed, config.evaluate.every, config.device, config.dtype) == (0, 50, "auto", "float32")
    assert (config.attack, config.compression) == (Spec("none"), Spec("identity"))
    assert config.data.parameters["split"] == Spec("shared")
    method = config.method.parameters
    assert method["clip_reference"] == "step" and method["full_cohort"] is None
    assert config.declared_byzantine == 4


def test_the_last_clients_are_byzantine():
    clients = parse(BASE).clients
    assert list(clients.honest_ids) == [0, 1, 2, 3, 4] and list(clients.byzantine_ids) == [5, 6, 7, 8]


@pytest.mark.parametrize(
    "assignment, expected",
    [
        ("rounds=7", {"rounds": 7}),
        ("method.clip=none", {"method": {"clip": "none"}}),
        ("evaluate.every=1e1", {"evaluate": {"every": 10.0}}),
        ("compression={name: rand_k, ratio: 0.5}", {"compression": {"name": "rand_k", "ratio": 0.5}}),
        ("aggregation.rule.f=1", {"aggregation": {"rule": {"name": "krum", "f": 1}}}),
        ("name=a=b", {"name": "a=b"}),
        ("rounds=", {"rounds": None}),
    ],
)
def test_overrides(assignment, expected):
    tree = {"aggregation": {"rule": "krum"}, "method": {"clip": 1.0}}
    before = copy.deepcopy(tree)
    assert override(tree, assignment) == {**before, **expected}
    assert tree == before


def test_overrides_apply_in_order(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(BASE))
    assert load(path, ["rounds=7", "method.cohort=3", "rounds=8"]).rounds == 8
    assert load(str(path)).rounds == BASE["rounds"]


def test_a_configuration_is_not_changed_by_parsing_it():
    before = dump(parse(BASE))
    tree = yaml.safe_load(yaml.safe_dump(BASE))
    parse(tree)
    assert tree == BASE and dump(parse(BASE)) == before


def test_what_is_outside_the_theory_is_said(caplog):
    with caplog.at_level(logging.WARNING, logger="byzdist"):
        parse({**BASE, "aggregation": {"rule": "coordinate_median", "declared_byzantine": 1}})
    (message,) = caplog.messages
    assert "declared_byzantine (1) is below clients.byzantine (4)" in message


def warnings(caplog, **sections):
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="byzdist"):
        parse(
            {
                key: {**value, **sections.get(key, {})} if isinstance(value, dict) else value
                for key, value in BASE.items()
            }
        )
    return caplog.messages


BUCKETS = [{"name": "bucketing", "size": 2}]


@pytest.mark.parametrize(
    "byzantine, aggregation, complaint",
    [
        (
            5,
            {"pre": BUCKETS},
            "coordinate_median with the steps of aggregation.pre tolerates 4 .* 5 may .* leave out the steps .* 9",
        ),
        (4, {"pre": BUCKETS}, None),
        (5, {"pre": []}, None),
        (9, {"pre": []}, None),
        (5, {"rule": "bulyan", "pre": []}, "bulyan tolerates 4 .* use another rule, or declare at most 4"),
        (1, {"rule": "mean", "pre": []}, "mean tolerates 0 .* 1 may"),
        (0, {"rule": "mean", "pre": BUCKETS}, None),
        (5, {"pre": [{"name": "bucketing", "size": 10}]}, "tolerates 0 .* 5 may"),
        (2, {"declared_byzantine": 5, "pre": BUCKETS}, "tolerates 4 .* 5 may"),  # what is declared counts
    ],
)
def test_full_rounds_that_break_down_are_refused_unless_that_is_allowed(caplog, byzantine, aggregation, complaint):
    sections = {"clients": {"count": 20, "byzantine": byzantine}, "method": {"cohort": 5}}
    strict, lax = ({**aggregation, "allow_breakdown": allowed} for allowed in (False, True))
    if complaint is None:
        warnings(caplog, **sections, aggregation=strict)
    else:
        with pytest.raises(ConfigError, match=f"aggregation: of the 20 replies .*{complaint}.*allow_breakdown=true"):
            warnings(caplog, **sections, aggregation=strict)
    messages = warnings(caplog, **sections, aggregation=lax)
    said = [message for message in messages if message.startswith("aggregation.allow_breakdown: of the 20 replies")]
    assert len(said) == (complaint is not None)
    needless = [
        message for message in messages if message.startswith("aggregation.allow_breakdown: steps and rule tolerate")
    ]
    assert len(needless) == (complaint is None and byzantine > 0)


def test_of_fewer_replies_than_clients_all_declared_ones_may_be_among_them(caplog):
    # 5 of 20 clients may all be among the 10 of a full round, of which the median tolerates 4.
    sections = {"clients": {"count": 20, "byzantine": 5}, "aggregation": {"pre": [], "allow_breakdown": False}}
    with pytest.raises(ConfigError, match=r"of the 10 replies .*tolerates 4 .* 5 may .* raise method.full_cohort"):
        warnings(caplog, **sections, method={"full_cohort": 10})
    warnings(caplog, **sections, method={"full_cohort": 11})


def test_a_cap_on_a_level_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="method.clip_max: .* method.clip"):
        parse({**BASE, "method": {**BASE["method"], "clip": "none", "clip_max": 1.0}})


def test_a_single_bucket_is_allowed_where_nobody_is_byzantine():
    buckets = {"rule": "coordinate_median", "pre": [{"name": "bucketing", "size": 9}]}
    parse({**BASE, "clients": {"count": 9}, "aggregation": buckets})


def test_the_readmes_example_is_the_quickstart():
    (example,) = re.findall(
        r"^```yaml\n(name: quickstart\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    assert parse(read_yaml(example, "README")) == load(ROOT / "configs" / "quickstart.yaml")


def test_everybody_byzantine_is_refused_whatever_is_declared():
    for byzantine, count in ((1, 2), (2, 4), (1, 1)):
        with pytest.raises(ConfigError, match="clients.byzantine"):
            parse({**BASE, "clients": {"count": count, "byzantine": byzantine}})


def test_the_message_of_a_missing_file_names_it():
    with pytest.raises(ConfigError, match="nowhere.yaml: cannot read the configuration"):
        load(Path("nowhere.yaml"))


@pytest.mark.parametrize("given", [-1, "two", True, 257, 1.0, None])
def test_a_wrong_number_of_processes_that_read_ahead_is_refused(given):
    with pytest.raises(ConfigError, match=r"^data.workers: .* is 0 to 256"):
        parse({**BASE, "data": {"name": "digits", "workers": given}})
    private = {"name": "mine:rows", "where": "worker", "features": [3], "outputs": 2, "workers": given}
    with pytest.raises(ConfigError, match=r"^data.workers: .* is 0 to 256"):
        parse({**BASE, "data": private})


def test_ranks_need_not_agree_on_how_many_processes_read_ahead():
    few, many = (parse({**BASE, "data": {"name": "digits", "workers": workers}}) for workers in (0, 2))
    assert dump(few) != dump(many) and dump(few, paths=False) == dump(many, paths=False)
