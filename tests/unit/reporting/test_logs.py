"""byzdist.reporting.logs: a line names its rank and round, and the environment sets the level."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from byzdist.errors import ConfigError
from byzdist.reporting import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("byzdist")
    handlers, level = root.handlers[:], ours.level
    yield
    root.handlers[:] = handlers
    ours.setLevel(level)
    logs._place.round = None


@pytest.mark.parametrize(("rank", "who"), [(0, "server"), (3, "w3")])
def test_lines_say_where_they_come_from(
    rank: int, who: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BYZDIST_LOG", "info")
    logs.configure(rank)
    log = logging.getLogger("byzdist.transport")
    log.info("hello")
    logs.at_round(12)
    log.warning("there")
    log.debug("unheard")
    assert capsys.readouterr().err.splitlines() == [f"[{who}] INFO hello", f"[{who} r12] WARNING there"]


@pytest.mark.parametrize(("rank", "said"), [(0, 1), (2, 0)])
def test_advice_about_the_configuration_is_given_once(
    rank: int, said: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BYZDIST_LOG", raising=False)
    logs.configure(rank)
    logging.getLogger("byzdist.config.checks").warning("mind this")
    logging.getLogger("byzdist.config.checks").error("mind that")
    assert len(capsys.readouterr().err.splitlines()) == said + 1


def test_the_default_level_is_warning(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BYZDIST_LOG", raising=False)
    logs.configure(1)
    logging.getLogger("byzdist").info("unheard")
    assert capsys.readouterr().err == ""


def test_an_unknown_level_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BYZDIST_LOG", "loud")
    with pytest.raises(ConfigError, match="BYZDIST_LOG.*LOUD.*DEBUG"):
        logs.configure(1)


def test_the_servers_log_is_in_the_runs_folder_as_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BYZDIST_LOG", raising=False)
    logs.configure(0)
    log = logging.getLogger("byzdist.runtime.server")
    log.warning("before")
    with logs.kept_in(tmp_path):
        logs.at_round(7)
        log.warning("läuft ✓")
        log.info("unheard")
    log.warning("after")
    with logs.kept_in(tmp_path / "nowhere"):  # a nicety
        log.warning("all the same")
    (kept,) = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert kept.endswith("[server r7] WARNING läuft ✓")
    assert len(capsys.readouterr().err.splitlines()) == 4


def test_a_log_that_cannot_be_written_raises_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def write(self, text: str) -> None:
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    logs.configure(0)
    logging.getLogger().handlers[0].stream = Full()  # type: ignore[attr-defined]
    logging.getLogger("byzdist").warning("to nobody")
    assert capsys.readouterr().err == ""
