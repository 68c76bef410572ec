"""Which runs a sweep has, from its file or from words, and what is refused."""

import pytest
import yaml

from byzdist.errors import ConfigError
from byzdist.sweeping.axes import Sweep, read_sweep

BASE = {"name": "case", "seed": 5, "method": {"name": "sgd", "step_size": 0.1}, "aggregation": {"rule": "krum"}}


def members(tmp_path, **tree):
    return Sweep({"base": BASE, **tree}, tmp_path).members()


def settings(found):
    return [dict(member.settings) for member in found]


def test_the_runs_are_the_product_of_grid_zips_and_curves(tmp_path):
    found = members(
        tmp_path,
        set={"rounds": 7},
        grid={"seed": "0..1", "attack": ["alie", "ipm"]},
        zip=[{"method.step_size": [0.1, 0.2], "method.clip": [1.0, 2.0]}],
        curves={"plain": {"method": "sgd"}, "marina": {"method.name": "marina", "aggregation.rule": "mean"}},
    )
    expected = [
        {"seed": seed, "attack": attack, "method.step_size": step, "method.clip": clip, "curve": curve}
        for seed in (0, 1)
        for attack in ("alie", "ipm")
        for step, clip in ((0.1, 1.0), (0.2, 2.0))
        for curve in ("plain", "marina")
    ]
    assert settings(found) == expected
    last = found[-1]
    assert last.name == "seed=1,attack=ipm,step_size=0.2,clip=2.0,curve=marina"
    assert last.tree == {
        "name": "case",
        "seed": 1,
        "rounds": 7,
        "method": {"name": "marina", "step_size": 0.2, "clip": 2.0},
        "aggregation": {"rule": "mean"},
        "attack": "ipm",
    }
    assert found[0].tree["method"] == {"name": "sgd", "step_size": 0.1, "clip": 1.0}, "a section is set before its keys"
    assert BASE["method"] == {"name": "sgd", "step_size": 0.1}


def test_words_make_a_sweep_of_a_configuration_and_change_that_of_a_file(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(BASE))
    words = ["aggregation.rule=[krum, mine:half]", "seed=0..2", "rounds=3", "attack=[[alie, ipm], none]"]
    found = read_sweep(tmp_path / "config.yaml", words).members()
    assert len(found) == 3 * 2 * 2
    assert {member.tree["rounds"] for member in found} == {3}
    assert [member.settings["attack"] for member in found[:2]] == [["alie", "ipm"], "none"]
    (tmp_path / "sweep.yaml").write_text(
        yaml.safe_dump({"base": "config.yaml", "grid": {"seed": "3..4", "rounds": [1, 2]}})
    )
    assert settings(read_sweep(tmp_path / "sweep.yaml", ["rounds=9"]).members()) == [{"seed": 3}, {"seed": 4}]


def test_what_is_written_down_makes_the_same_runs(tmp_path):
    sweep = Sweep({"base": BASE, "grid": {"seed": "0..2"}, "curves": {"a": {"rounds": 1}}}, tmp_path)
    again = Sweep(yaml.safe_load(yaml.safe_dump(sweep.tree)), tmp_path)
    assert again.members() == sweep.members() and again.tree == sweep.tree


@pytest.mark.parametrize(
    "tree, complaint",
    [
        ({"gird": {"seed": [1]}}, "gird: a sweep has no such key. Did you mean 'grid'"),
        ({"grid": {"seed": 1}}, "grid.seed: a list of values, or a range .* .it is 1"),
        ({"grid": {"seed": "4..0"}}, "4..0: a range goes upwards"),
        ({"grid": {"seed": []}}, "grid.seed: a list of values"),
        ({"grid": {"seed": [1, 2, 1]}}, "seed=1: this value is given twice"),
        ({"grid": {"seed": ["1", 1]}}, "seed=1: this value is given twice"),
        ({"grid": {"seed": [1]}, "set": {"seed": 3}}, "seed: it is in set and an axis"),
        ({"grid": {"seed": [1]}, "zip": [{"seed": [1], "rounds": [2]}]}, "seed: it is in two axes"),
        ({"zip": [{"seed": [1, 2], "rounds": [2]}]}, "zip: seed has 2 values, rounds has 1 values"),
        ({"zip": {"seed": [1]}}, "zip: a list of mappings"),
        ({"set": {"seed": 1}}, "they make 0 runs; give it a list"),
        ({"grid": {"seed": "0..999", "rounds": "1..999"}}, "they make 999000 runs"),
        ({"grid": {"seed.deep": [1]}}, "run deep=1: seed.deep: 'seed' holds 5"),
    ],
)
def test_a_mistake_names_the_key_and_the_value(tmp_path, tree, complaint):
    with pytest.raises(ConfigError, match=complaint):
        members(tmp_path, **tree)
