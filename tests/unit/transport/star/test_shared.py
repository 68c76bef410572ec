"""The memory that the server shares with its gateways."""

from types import SimpleNamespace

import pytest
import torch

from byzdist.transport.star.shared import Shared
from tests.support.star import shape_of


@pytest.mark.parametrize("error", [0, 712])
def test_for_a_gpu_the_models_and_the_rows_of_a_cohort_are_locked(error, monkeypatch, caplog):
    """Where there is no GPU, what CUDA would be asked for."""
    locked = {}

    def register(address, size, flags):
        locked[address] = size
        return error

    monkeypatch.setattr(torch.cuda, "cudart", lambda: SimpleNamespace(cudaHostRegister=register))
    shape = shape_of(3)
    shared = Shared(shape)
    shared.pin()
    first, last = shared.rows[0].message, shared.rows[shape.max_cohort - 1].message
    assert locked == {
        shared.models.data_ptr(): shared.models.nbytes,
        first.data_ptr(): last.data_ptr() + last.nbytes - first.data_ptr(),
    }
    assert len(caplog.messages) == 2 * (error != 0)
