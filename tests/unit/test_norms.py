"""byzdist.norms: the norm that a float64 copy would have, to the digits of the dtype, for vectors of any size."""

import numpy as np
import pytest
import torch

from byzdist.norms import add_in_order, norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 1000, 2**17, 2**17 + 1, 300_000])
def test_the_norm_is_that_of_a_float64_copy(d: int, dtype: torch.dtype) -> None:
    vector = torch.randn(d, generator=torch.Generator().manual_seed(d), dtype=dtype)
    assert norm(vector) == pytest.approx(
        float(vector.double().norm()), rel=1e-13 if dtype == torch.float64 or d <= 2**17 else 1e-7
    )


def test_large_values_do_not_overflow() -> None:
    assert norm(torch.full((200_000,), 1e38)) == pytest.approx(1e38 * 200_000**0.5, rel=1e-7)


def test_blocks_that_float32_cannot_square_are_squared_in_float64() -> None:
    vector = torch.zeros(200_000)
    vector[5000:8000], vector[70_000:70_010] = 1e-30, 3.0
    assert norm(vector) == pytest.approx(90**0.5, rel=1e-7)
    vector[70_000:70_010] = 0.0
    assert norm(vector) == pytest.approx(1e-30 * 3000**0.5, rel=1e-6)
    assert norm(torch.zeros(200_000)) == 0.0


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (3,), (4, 4), (50, 50)])
def test_sums_in_order_do_not_depend_on_how_they_are_divided(shape: tuple[int, ...]) -> None:
    addends = np.random.default_rng(0).normal(size=(1000, *shape)).astype(np.float32)
    one_by_one, at_once, in_two = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for addend in addends:
        one_by_one += addend
    add_in_order(addends, at_once)
    add_in_order(addends[:300], in_two)
    add_in_order(addends[300:], in_two)
    assert (at_once == one_by_one).all() and (in_two == one_by_one).all()
