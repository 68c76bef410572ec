"""Metrics for scraping: a file in the text format of Prometheus.

A node exporter's textfile collector can read it, and any web server can serve it.
"""

import logging
import math
import time
from pathlib import Path

from byzdist.errors import ConfigError
from byzdist.host.files import write_text
from byzdist.reporting.metrics import Metrics
from byzdist.reporting.record import RoundRecord

log = logging.getLogger(__name__)
VARIABLE = "BYZDIST_PROMETHEUS"
_EVERY = 1.0  # seconds between two writes
_HELP = {
    "byzdist_round": ("gauge", "The last round that ended."),
    "byzdist_last_round_timestamp_seconds": ("gauge", "When it ended."),
    "byzdist_round_seconds": ("gauge", "How long the stages of the last round took."),
    "byzdist_rounds_total": ("counter", "Rounds of this process."),
    "byzdist_bytes_total": ("counter", "Training bytes from (up) and to (down) the workers."),
    "byzdist_missing_replies_total": ("counter", "Replies that were asked for and did not come, or were malformed."),
    "byzdist_byzantine_majorities_total": ("counter", "Rounds whose cohort had more Byzantine than honest clients."),
}


class Prometheus:
    """Keeps the file up to date.

    Raises:
        ConfigError: if it cannot be written.
    """

    def __init__(self, path: Path, run: str, rounds: int) -> None:
        self._path, self._run, self._rounds = path, run, rounds
        self._next = 0.0
        if path.exists() and not path.is_file():  # a device such as /dev/stdout must not be replaced
            raise ConfigError(
                f"{VARIABLE}: {str(path)!r} is not a plain file; name one in a folder that can be written."
            )
        try:
            self._write("")
        except OSError as error:
            raise ConfigError(f"{VARIABLE}: cannot write {str(path)!r}: {error.strerror}.") from None

    def show(self, record: RoundRecord, metrics: Metrics) -> None:
        """Write the state after a round, at most once a second, but always after the last round."""
        now = time.monotonic()
        if now < self._next and record.round < self._rounds:
            return
        self._next = now + _EVERY
        try:
            self._write(render(record, metrics, self._run, time.time()))
        except OSError as error:  # such as a full disk, which must not end a run
            log.warning("%s: cannot write %s: %s", VARIABLE, self._path, error.strerror)

    def _write(self, text: str) -> None:
        write_text(self._path, text, durable=False)  # replaced as a whole: a scraper never sees half a file


def render(record: RoundRecord, metrics: Metrics, run: str, now: float) -> str:
    """Return the file's text: the state after a round, with the totals of the run and the last evaluation or claims.

    ``run`` is the run's name; it has no character that a label must escape.
    """
    totals, last = metrics.totals, metrics.last
    measured = {key: last[key] for key in metrics.better if last.get(key) is not None}
    samples: dict[str, list[tuple[str, float]]] = {
        "byzdist_round": [("", record.round)],
        "byzdist_last_round_timestamp_seconds": [("", now)],
        "byzdist_round_seconds": [(f',stage="{stage}"', seconds) for stage, seconds in record.seconds.items()],
        "byzdist_rounds_total": [("", totals["rounds"])],
        "byzdist_bytes_total": [(f',direction="{way}"', totals[f"bytes_{way}"]) for way in ("up", "down")],
        "byzdist_missing_replies_total": [("", totals["missing"])],
        "byzdist_byzantine_majorities_total": [("", totals["byzantine_majorities"])],
        **{f"byzdist_{key}": [("", value)] for key, value in measured.items()},
        **{
            f"byzdist_claimed_{key}": [(f',of="{of}"', claim[of]) for of in ("median", "spread", "clients")]
            for key, claim in metrics.claimed.items()
        },
    }
    meanings = _HELP | {
        f"byzdist_{key}": ("gauge", f"The last evaluation's {key}; {metrics.better[key]} is better.")
        for key in measured
    }
    meanings |= {
        f"byzdist_claimed_{key}": (
            "gauge",
            f"What clients claimed about the {key} when they last evaluated: it may be a lie.",
        )
        for key in metrics.claimed
    }
    text = []
    for name, entries in samples.items():
        kind, meaning = meanings[name]
        text += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
        text += [f'{name}{{run="{run}"{labels}}} {_number(value)}' for labels, value in entries]
    return "\n".join(text) + "\n"


def _number(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
