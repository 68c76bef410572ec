"""Tests of real processes share two cores with whatever else runs: one that fails is run a second time, and reported as RERUN."""

from pathlib import Path

import pytest

_REAL = [Path(__file__).parent / folder for folder in ("distributed", "chaos")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(item.path.is_relative_to(folder) for folder in _REAL):
            item.add_marker(pytest.mark.flaky(reruns=1))
