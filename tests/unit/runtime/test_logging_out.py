"""A run's loggers get the numbers of each round, and no logger can end the run."""

import json
import sys

import pytest

from byzdist.config.reading import parse
from byzdist.errors import ConfigError
from byzdist.loggers import LOGGERS
from byzdist.reporting.record import RoundRecord
from byzdist.runtime.logging_out import Loggers, check_loggers, wanted
from tests.support.cases import BASE

SEEN = []


def plain(folder, config, *, prefix: str = ""):
    return lambda round_, values: SEEN.append((prefix + config["name"], round_, values))


class Closing:
    def __init__(self, folder, config):
        self.folder = folder

    def __call__(self, round_, values):
        if round_ == 1:
            raise OSError("full")
        SEEN.append(("closing", round_))

    def close(self, summary):
        SEEN.append(summary)


def broken(folder, config):
    raise RuntimeError("no network")


def record(number, **changes):
    fields = {
        "round": number,
        "full": True,
        "cohort": [0, 1],
        "missing": {1: "late"},
        "byzantine": 1,
        "bytes_up": 8,
        "bytes_down": 4,
    }
    return RoundRecord(**{**fields, **changes})


def test_each_logger_gets_the_numbers_of_a_round_and_one_that_fails_is_left_out(tmp_path, caplog):
    SEEN.clear()
    log = [{"name": f"{__name__}:plain", "prefix": "my "}, f"{__name__}:Closing", f"{__name__}:broken"]
    loggers = Loggers(parse({**BASE, "metrics": {"log": log}}), tmp_path)
    loggers.show(record(0, evaluation={"loss": 0.5}, clip_level=2.0, seconds={"total": 0.1}), None)
    loggers.show(record(1, claimed={"loss": {"median": 3.0, "spread": 1.0}}), None)
    loggers.close({"status": "finished"})
    common = {"replies": 1, "byzantine": 1, "clipped": 0, "bytes_up": 8, "bytes_down": 4}
    assert SEEN == [
        ("my case", 0, {**common, "seconds": 0.1, "loss": 0.5, "clip_level": 2.0}),
        ("closing", 0),
        ("my case", 1, {**common, "seconds": 0.0, "claimed_loss": 3.0}),
    ]
    said = [message for message in caplog.messages if "continues without it" in message]
    assert len(said) == 2 and "RuntimeError: no network" in said[0] and "OSError: full" in said[1]


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (
            {"tensorboard": True},
            r"metrics.tensorboard: tensorboard is not installed: pip install 'byzdist\[tensorboard\]'",
        ),
        ({"log": "wandb"}, r"metrics.log: wandb is not installed: pip install 'byzdist\[wandb\]'"),
        ({"log": ["mlflow"]}, r"metrics.log: mlflow is not installed"),
    ],
)
def test_what_is_not_installed_is_told_before_the_run(monkeypatch, metrics, said):
    config, module = parse({**BASE, "metrics": metrics}), said.split()[1]
    monkeypatch.setitem(sys.modules, module, json)  # whichever is installed
    check_loggers(config)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=said):
        check_loggers(config)


def test_a_logger_is_checked_as_any_piece_is():
    with pytest.raises(ConfigError, match=r"metrics.log: unknown logger 'wandbb'\. Did you mean 'wandb'"):
        parse({**BASE, "metrics": {"log": "wandbb"}})
    with pytest.raises(ConfigError, match=r"metrics.log.0.projects: unknown key"):
        parse({**BASE, "metrics": {"log": [{"name": "wandb", "projects": "x"}]}})
    assert wanted(parse(BASE)) == [] and list(LOGGERS) == ["mlflow", "tensorboard", "wandb"]
