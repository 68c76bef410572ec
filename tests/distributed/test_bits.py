"""One thread and two give equal bits, with each code path that the libraries may take on a processor.

Each setting of those has a process of its own, because libraries read it when they are loaded.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from byzdist.aggregation import Aggregator
from byzdist.aggregation.kernels import native
from byzdist.norms import norm

SETTINGS = {
    "SSE": {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ATEN_CPU_CAPABILITY": "default"},
    "AVX2": {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "AVX512": {"MKL_ENABLE_INSTRUCTIONS": "AVX512", "ATEN_CPU_CAPABILITY": "avx512"},
}
CLIPPED = [{"name": "clip", "threshold": 30.0}, {"name": "bucketing", "size": 2}]
CHAIN = [*CLIPPED[:1], "arc", "nnm", *CLIPPED[1:]]
ELEMENTWISE = [("mean", []), ("coordinate_median", CLIPPED)]
OTHERS = [
    ("trimmed_mean", CHAIN),
    ("geometric_median", CHAIN),
    ("caf", []),
    ({"name": "ctma", "rule": "mean"}, ["nnm"]),
]


def digest(values) -> str:
    """Return the bits of some values in a form that a process can print."""
    import hashlib

    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]


def bits(rule, chain, dtype, compile_, threads, narrowest):
    from byzdist.aggregation import vectors

    torch.set_num_threads(threads)
    vectors.NARROWEST, vectors.SHARE = narrowest
    V = torch.randn(10, 30_001, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    aggregator = Aggregator(rule, chain, compile=compile_)
    return digest(aggregator(V, f=1, generator=np.random.default_rng(7)).vector.numpy())


def report() -> dict[str, list[str]]:
    """Return for each computation its bits under other numbers of threads and widths of tiles."""
    found = {}
    variants = [(1, (4096, 12)), (2, (16384, 12)), (2, (2048, 50))]
    for rule, chain in ELEMENTWISE + OTHERS:
        for dtype in (torch.float32, torch.float64):
            for compile_ in (False, "sums") if native.is_possible() else (False,):
                name = f"{rule} {chain} {dtype} {compile_}"
                found[name] = [bits(rule, chain, dtype, compile_, *variant) for variant in variants]
    x, g = torch.randn(2, 200_003, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for dtype in (torch.float32, torch.float64):
            for d in (1000, 131_072, 200_003):
                found.setdefault(f"norm {dtype} {d}", []).append(digest(norm(x[:d].to(dtype))))
            step = x.to(dtype, copy=True).add_(g.to(dtype), alpha=-0.1)  # the server's step
            found.setdefault(f"step {dtype}", []).append(digest(step.numpy()))
    return found


@pytest.fixture(scope="module")
def reports():
    script = f"import json; from {__name__} import report; print(json.dumps(report()))"
    running = {
        name: subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, **setting},
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, setting in SETTINGS.items()
    }
    try:
        return {name: json.loads(process.communicate(timeout=240)[0]) for name, process in running.items()}
    finally:
        for process in running.values():
            process.kill()
            process.wait()


@pytest.mark.parametrize("setting", SETTINGS)
def test_bits_do_not_depend_on_threads_or_tiles_under_other_code_paths(reports, setting):
    assert len(reports[setting]) >= 20
    assert {name: found for name, found in reports[setting].items() if len(set(found)) > 1} == {}


def test_what_is_added_in_an_order_of_our_own_has_the_same_bits_under_all_of_them_and_with_a_compiler_or_without(
    reports,
):
    for rule, chain in ELEMENTWISE:
        for dtype in (torch.float32, torch.float64):
            names = [name for name in reports["SSE"] if name.startswith(f"{rule} {chain} {dtype}")]
            assert len({bits for report in reports.values() for name in names for bits in report[name]}) == 1
    for name in (name for name in reports["SSE"] if name.startswith("norm")):
        assert len({report[name][0] for report in reports.values()}) == 1
