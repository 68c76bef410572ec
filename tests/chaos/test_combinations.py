"""Configurations drawn at random: real processes and a resumed run give the bits of one process, whatever is combined."""

import random
import shutil
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from byzdist.config.reading import parse
from byzdist.errors import ConfigError
from byzdist.storage.checkpoint import rounds
from tests.support.combinations import drawn
from tests.support.harness import Run, byzdist, comparable, write_config
from tests.support.runs import drop_after


def valid(seed):
    """Return the next configuration after a seed that byzdist accepts, and its own seed."""
    for later in count(1000 * seed):
        with suppress(ConfigError):
            tree = drawn(later)
            parse(tree)
            return later, tree
    raise AssertionError("there is always one")


def trained(folder, config, *words):
    """Train with the command; return its exit code and its output."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with byzdist("run", write_config(folder.parent, config), "--out", folder, *words) as job:
        code = job.wait(120)
        if code == 0:
            job.assert_clean()
        return code, job.output


def found(folder: Path):
    return Run(folder, "").model.tolist(), comparable(folder, ("news", "bytes_up", "bytes_down"))


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(40))
def test_a_combination_gives_the_same_bits_everywhere(tmp_path, seed):
    later, config = valid(seed)
    draw = random.Random(seed)
    code, output = trained(tmp_path / "local" / "run", {**config, "transport": {"name": "local"}})
    if code == 2 and "Traceback" not in output:
        pytest.skip(f"{later}: {output.splitlines()[-1]}")
    assert code == 0, f"{later} {config}\n{output}"
    transport = {"name": draw.choice(["star", "collective"]), "deadline": 60}
    workers = draw.randint(1, min(4, config["clients"]["count"]))
    code, output = trained(tmp_path / "several" / "run", {**config, "transport": transport}, "--workers", str(workers))
    assert code == 0, f"{later} {transport} {config}\n{output}"
    assert found(tmp_path / "several" / "run") == found(tmp_path / "local" / "run"), f"{later} {transport} {config}"
    saved = sorted(rounds(tmp_path / "local" / "run" / "checkpoint"))
    if len(saved) > 2:
        shutil.copytree(tmp_path / "local" / "run", tmp_path / "resumed" / "run")
        drop_after(tmp_path / "resumed" / "run", draw.choice(saved[:-1]))
        code, output = trained(tmp_path / "resumed" / "run", {**config, "transport": {"name": "local"}}, "--resume")
        assert code == 0, f"{later} {config}\n{output}"
        assert found(tmp_path / "resumed" / "run") == found(tmp_path / "local" / "run"), f"{later} {config}"
