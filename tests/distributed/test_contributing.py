"""The examples of CONTRIBUTING.md work as they are: a copy of the package gets all of them in their places, and trains with them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import byzdist
from byzdist.config.settings import KINDS

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"
EXAMPLES = re.findall(r"^```python\n# (byzdist/\S+\.py)\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
RUN: dict[str, Any] = {
    "name": "pieces",
    "rounds": 12,
    "clients": {"count": 8, "byzantine": 2, "availability": "alternating"},
    "data": {"name": "wine", "split": "in_turn"},
    "model": {"name": "tanh_network", "width": 5},
    "task": "brier_score",
    "method": {
        "name": "gd",
        "cohort": 3,
        "step_size": {"name": "inverse", "value": 0.1, "rounds": 20},
        "server_optimizer": "averaged",
    },
    "compression": {"name": "rand_block", "count": 40},
    "aggregation": {"rule": "medoid", "pre": "median_clip", "allow_breakdown": True},
    "attack": {"name": "constant", "value": 2.0},
    "evaluate": {"every": 6},
    "metrics": {"log": {"name": "table", "digits": 3}},
    "transport": "local",
    "device": "cpu",
}

LOCAL = {
    **RUN,
    "method": {
        "name": "local_steps",
        "cohort": 3,
        "step_size": 0.5,
        "steps": 2,
        "inner": {"name": "signs", "step_size": 0.01},
    },
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """Return a folder with a copy of the package to which every example was added."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(Path(byzdist.__file__).parent, folder / "byzdist", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in EXAMPLES:
        with (folder / name).open("a") as file:
            file.write(f"\n\n{text}" if file.tell() else text)
    return folder


def test_there_is_an_example_of_each_kind_and_none_of_them_is_shipped():
    section = {kind: RUN for kind in KINDS}
    section |= {
        "rule": RUN["aggregation"],
        "pre": RUN["aggregation"],
        "split": RUN["data"],
        "availability": RUN["clients"],
        "schedule": RUN["method"],
        "optimizer": RUN["method"],
        "inner": LOCAL["method"],
        "logger": RUN["metrics"],
    }
    chosen = {kind: section[kind][one.key.rpartition(".")[2]] for kind, one in KINDS.items()}
    names = {kind: piece if isinstance(piece, str) else piece["name"] for kind, piece in chosen.items()}
    assert len(EXAMPLES) == len(KINDS)
    assert not [name for kind, name in names.items() if name in KINDS[kind].registry]


@pytest.mark.parametrize("tree", [RUN, LOCAL], ids=["run", "local"])
def test_a_run_trains_with_all_of_them_none_of_which_is_listed_anywhere(copy, tree, request):
    name = request.node.callspec.id
    (copy / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    command = [sys.executable, "-m", "byzdist", "run", f"{name}.yaml", "--out", name]
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    first, *rest = [json.loads(line) for line in (copy / name / "metrics.jsonl").read_text().splitlines()]
    assert all(client % 2 == line["round"] % 2 for line in [first, *rest] for client in line["cohort"])
    sampled = [line for line in rest if line["kind"] == "sampled"]
    assert sampled and all(line["bytes_up"] == len(line["cohort"]) * (64 + 40 * 4) for line in sampled)
    assert json.loads((copy / name / "summary.json").read_text())["loss"] < first["loss"]
    lines = (copy / name / "losses.tsv").read_text().splitlines()
    assert (
        lines == [f"{line['round']}\t{line['loss']:.3g}" for line in [first, *rest] if "loss" in line]
        and len(lines) == 3
    )


def test_the_examples_keep_the_package_s_style(tmp_path):
    ruff = pytest.importorskip("ruff", reason="needs ruff").find_ruff_bin()
    for name, text in EXAMPLES:
        (tmp_path / Path(name).name).write_text(text)
    command = [ruff, "format", "--check", "--config", str(PAGE.parent / "pyproject.toml"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
