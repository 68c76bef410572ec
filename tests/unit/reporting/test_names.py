"""A task's metrics stand beside other keys in a run's files, and cannot take their place."""

from typing import Any, cast

import pytest

from byzdist.errors import ConfigError
from byzdist.problem.task import Metric, Task
from byzdist.reporting.metrics import Metrics
from byzdist.reporting.names import TAKEN, check_metrics
from byzdist.reporting.prometheus import render
from tests.support.records import record


def one(model, batch):
    return 1.0, 1


def task(**metrics):
    return Task(one, metrics)


def test_every_key_of_a_runs_files_is_taken(tmp_path):
    metrics = Metrics(tmp_path)
    entry = record(1, called="a", untrusted="b", postponed="c", f=1, events=["d"], seconds={"total": 1.0})
    metrics.add(entry)
    scraped = {
        line.split()[2].removeprefix("byzdist_")
        for line in render(entry, metrics, "run", 0).splitlines()
        if "# HELP" in line
    }
    assert entry.line().keys() | metrics.close("stopped", "why").keys() | scraped <= TAKEN | {"total"}


@pytest.mark.parametrize("name", ["round", "loss", "gap", "kind", "seconds", "round_seconds", "status", "untrusted"])
def test_a_name_of_the_runs_own_is_refused(name):
    with pytest.raises(ConfigError, match=f"cannot be called '{name}', .* my_{name}"):
        check_metrics(task(**{name: Metric(one)}))


@pytest.mark.parametrize("name", ["", "top-5", "5th", "a b", "größe", "a" * 101, 3])
def test_what_is_no_identifier_is_refused(name):
    with pytest.raises(ConfigError, match="letters, digits and underscores"):
        check_metrics(Task(one, {name: Metric(one)}))


@pytest.mark.parametrize("metric", [one, Metric(one, cast(Any, "up"))])
def test_what_is_no_metric_with_a_direction_is_refused(metric):
    with pytest.raises(ConfigError, match="'mae' is not a Metric whose `better` is 'higher' or 'lower'"):
        check_metrics(task(mae=metric))
    with pytest.raises(ConfigError, match="metrics are list"):
        check_metrics(Task(one, cast(Any, ["mae"])))
    check_metrics(task(mae=Metric(one), top_5=Metric(one, "lower")))
