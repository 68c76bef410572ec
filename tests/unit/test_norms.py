"""byzdist.norms: the length that a float64 copy would have, however long the vector."""

import pytest
import torch

from byzdist.norms import norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 1000, 2**16, 2**16 + 1, 300_000])
def test_the_norm_is_that_of_a_float64_copy(d: int, dtype: torch.dtype) -> None:
    vector = torch.randn(d, generator=torch.Generator().manual_seed(d), dtype=dtype)
    assert norm(vector) == pytest.approx(float(vector.double().norm()), rel=1e-13)


def test_large_values_do_not_overflow() -> None:
    assert norm(torch.full((200_000,), 1e38)) == pytest.approx(1e38 * 200_000**0.5, rel=1e-7)
