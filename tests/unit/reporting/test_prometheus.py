"""byzdist.reporting.prometheus: the file is in the text format, whole at any time, and says what metrics.jsonl says."""

import re
from pathlib import Path

import pytest

from byzdist.errors import ConfigError
from byzdist.reporting.metrics import Metrics
from byzdist.reporting.prometheus import Prometheus, render
from byzdist.reporting.record import RoundRecord
from tests.support.records import record

_SAMPLE = re.compile(r'^(\w+)\{run="toy"((?:,\w+="[^"\\\n]*")*)\} (\S+)$')


def round_record(round_: int) -> RoundRecord:
    seconds = {"wait": 0.5, "total": 0.75}
    return record(
        round_,
        missing={2: "late"},
        byzantine=2,
        bytes_up=100,
        bytes_down=10,
        seconds=seconds,
        loss=0.25,
        accuracy=float("nan"),
    )


def samples(text: str) -> dict[str, float]:
    """Parse the text format as its specification has it: HELP and TYPE before the samples of each name, once."""
    found: dict[str, float] = {}
    types: dict[str, str] = {}
    for row in text.splitlines():
        if row.startswith("# HELP "):
            assert row.split()[2] not in types
        elif row.startswith("# TYPE "):
            _, _, name, kind = row.split()
            assert kind in ("gauge", "counter")
            assert (kind == "counter") == name.endswith("_total")
            types[name] = kind
        else:
            match = _SAMPLE.match(row)
            assert match, row
            assert match[1] in types
            found[match[1] + match[2]] = float(match[3])
    assert text.endswith("\n")
    return found


def test_the_totals_are_those_of_the_run(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    for k in (1, 2, 3):
        metrics.add(round_record(k))
    found = samples(render(round_record(3), metrics, "toy", 1234.5))
    assert found["byzdist_round"] == 3
    assert found["byzdist_rounds_total"] == 3
    assert found['byzdist_bytes_total,direction="up"'] == 300
    assert found['byzdist_bytes_total,direction="down"'] == 30
    assert found["byzdist_missing_replies_total"] == 3
    assert found["byzdist_byzantine_majorities_total"] == 3
    assert found['byzdist_round_seconds,stage="wait"'] == 0.5
    assert found["byzdist_loss"] == 0.25
    assert found["byzdist_accuracy"] != found["byzdist_accuracy"]
    assert found["byzdist_last_round_timestamp_seconds"] == 1234.5
    assert "byzdist_gap" not in found
    metrics.close("finished")


def test_a_tasks_own_metrics_come_with_their_direction(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, better={"loss": "lower", "mae": "lower", "f1": "higher"})
    entry = record(1, ("mae", "f1"), mae=0.5, f1=0.75)
    metrics.add(entry)
    text = render(entry, metrics, "toy", 0.0)
    assert samples(text)["byzdist_mae"] == 0.5 and samples(text)["byzdist_f1"] == 0.75
    assert "# HELP byzdist_mae The last evaluation's mae; lower is better.\n" in text
    assert "# HELP byzdist_f1 The last evaluation's f1; higher is better.\n" in text
    assert metrics.close("finished")["mae"] == 0.5


def test_writes_are_seconds_apart_but_for_the_last_round(tmp_path: Path) -> None:
    path = tmp_path / "byzdist.prom"
    exporter, metrics = Prometheus(path, "toy", rounds=3), Metrics(tmp_path)
    assert path.read_text() == ""
    seen = []
    for k in (1, 2, 3):
        metrics.add(round_record(k))
        exporter.show(round_record(k), metrics)
        seen.append(samples(path.read_text())["byzdist_round"])
    assert seen == [1, 1, 3]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["byzdist.prom", "metrics.jsonl"]
    metrics.close("finished")


def test_a_file_that_cannot_be_written_is_a_mistake_at_the_start_and_a_warning_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match="BYZDIST_PROMETHEUS"):
        Prometheus(tmp_path / "none" / "byzdist.prom", "toy", rounds=3)
    folder = tmp_path / "folder"
    folder.mkdir()
    exporter, metrics = Prometheus(folder / "byzdist.prom", "toy", rounds=3), Metrics(tmp_path)
    (folder / "byzdist.prom").unlink()
    folder.rmdir()
    metrics.add(round_record(1))
    exporter.show(round_record(1), metrics)
    assert "cannot write" in caplog.text
    metrics.close("finished")


def test_what_clients_claim_is_told_as_that(tmp_path: Path) -> None:
    metrics, told = Metrics(tmp_path), record(3)
    told.claimed = {"loss": {"median": 0.5, "spread": 0.125, "clients": 3}}
    metrics.add(told)
    text = render(told, metrics, "toy", 1.0)
    found = samples(text)
    assert found['byzdist_claimed_loss,of="median"'] == 0.5 and found['byzdist_claimed_loss,of="spread"'] == 0.125
    assert found['byzdist_claimed_loss,of="clients"'] == 3 and "byzdist_loss" not in found
    assert "# HELP byzdist_claimed_loss What clients claimed" in text
