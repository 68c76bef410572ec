"""The sums in C are right, and equal those of the eager path bit for bit."""

import numpy as np
import pytest
import torch

from byzdist.aggregation.kernels import native
from byzdist.aggregation.kernels.native_sums import make_sums
from byzdist.norms import BLOCK, block_squares

compiled = pytest.mark.skipif(not native.is_possible(), reason="needs a C compiler")


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("columns", [1, 300, BLOCK, 3 * BLOCK + 7])
def test_squares_in_c_are_those_of_the_eager_path_and_right(dtype, columns):
    wide = torch.randn(5, columns + 9, generator=torch.Generator().manual_seed(columns), dtype=torch.float64).to(dtype)
    rows = wide[:, 3 : 3 + columns]
    found = make_sums(dtype).squares(rows)
    assert found.tobytes() == block_squares(rows.numpy()).tobytes()
    expected = [(rows[:, k : k + BLOCK].double() ** 2).sum(1).numpy() for k in range(0, columns, BLOCK)]
    np.testing.assert_allclose(found.T, expected, rtol=1e-6 if dtype == torch.float32 else 1e-14)


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weighted_sums_in_c_are_added_row_by_row(dtype):
    rows = torch.randn(7, 601, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    weights = np.random.default_rng(0).normal(size=5).astype(rows.numpy().dtype)
    begins, of, out = np.array([0, 2, 2, 5]), np.array([1, 6, 0, 1, 2]), torch.empty(3, 601, dtype=dtype)
    make_sums(dtype).mix(begins, of, weights, rows, out)
    expected = [torch.zeros(601, dtype=dtype) for _ in range(3)]
    for i in range(3):
        for k in range(begins[i], begins[i + 1]):
            expected[i] = expected[i] + float(weights[k]) * rows[of[k]]
    assert torch.equal(out, torch.stack(expected))
