"""How tests share two cores with each other, and with whatever else runs; and signals, which they must be able to hear."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# A thread that spins while it waits takes the core on which another test, or the thread that it waits for, would run.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# nohup and a shell's & have these ignored, and so would all processes that tests start.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

_REAL = [Path(__file__).parent / folder for folder in ("distributed", "chaos")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run a test of real processes a second time if it fails; pytest reports that as RERUN."""
    for item in items:
        if any(item.path.is_relative_to(folder) for folder in _REAL):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_the_disk() -> Iterator[None]:
    """Leave out, in this process, what protects from a loss of power alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield
