"""One thread, as in every process of a run, because more threads make small tensors many times slower on a busy machine; and no
process's log settings kept for the next test."""

import gc
import logging
from collections.abc import Iterator

import pytest

# torch and what imports it are imported in functions, because the process that hands out the tests needs neither.


def pytest_collection_finish() -> None:
    """Leave what was imported and collected out of every later search for garbage, which takes a tenth of the time."""
    import torch

    torch.set_num_threads(1)
    gc.freeze()


@pytest.fixture(autouse=True)
def advice_is_heard() -> Iterator[None]:
    from byzdist.reporting.logs import ADVISERS

    yield
    for adviser in ADVISERS:
        logging.getLogger(adviser).setLevel(logging.NOTSET)
