"""A run in this process leaves nothing behind in it."""

import gc
import signal
import time
import weakref
from dataclasses import dataclass

import pytest
import yaml

from byzdist.methods.estimates import SGD
from byzdist.problem.models import MODELS
from byzdist.reporting import logs
from byzdist.runtime.alone import run_alone
from byzdist.runtime.command import RunCommand
from tests.support.cases import case

HELD = list[weakref.ref]()


def model(feature_shape, classes):
    """Return logistic regression, which the test hears of."""
    made = MODELS.get("logistic_regression")(feature_shape, classes, l2=0.1)
    HELD.append(weakref.ref(made))
    return made


@dataclass(kw_only=True)
class Plain(SGD):
    """A method that the test hears of; server, worker and all their pieces hold it."""

    def __post_init__(self):
        HELD.append(weakref.ref(self))


@pytest.fixture
def configuration(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "configure", lambda rank: None)  # because this process's logs are pytest's
    config = case("ipm", name="sgd") | {"rounds": 4, "model": f"{__name__}:model", "transport": "local"}
    config["method"]["name"] = f"{__name__}:Plain"
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


def test_what_a_run_held_is_free_as_soon_as_it_has_ended(tmp_path, configuration):
    gc.collect()
    gc.disable()  # it would free reference cycles, sooner or later
    try:
        HELD.clear()
        run_alone(RunCommand(configuration, out=tmp_path / "run"))
        assert len(HELD) >= 4
        until = time.monotonic() + 10.0  # the thread that saves may still be ending
        while (left := [held() for held in HELD if held() is not None]) and time.monotonic() < until:
            del left
            time.sleep(0.01)
        assert left == []
    finally:
        gc.enable()


def test_signals_are_handled_as_before(tmp_path, configuration):
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    before = [signal.getsignal(number) for number in numbers]
    run_alone(RunCommand(configuration, out=tmp_path / "run"))
    assert [signal.getsignal(number) for number in numbers] == before
