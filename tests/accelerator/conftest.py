"""Tests that need a GPU or another accelerator; `tests/distributed/test_second_device.py` runs them on one in the CPU's memory."""

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The accelerator that torch sees."""
    found = torch.accelerator.current_accelerator(check_available=True)
    assert found is not None, "without one the modules are skipped"
    return torch.device(found.type, 0)
