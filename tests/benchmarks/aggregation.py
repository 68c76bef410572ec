"""The speed of aggregation, in read passes over the matrix and against ByzFL, side by side in one process.

    python tests/benchmarks/aggregation.py PART [--threads 1 2] [--compile] [--repeat N]

PARTs: passes, oneshot, byzfl, peers, memory, latency.

One pass is ``V.sum()``. Candidate and pass alternate, and the median of their ratios is printed, so that what else
the machine does falls on both; on a busy machine look at the minimum beside it. Small matrices are rotated through
copies that together exceed the cache, as vectors that have just arrived would not be in it.
"""

import argparse
import importlib
import os
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable

import numpy as np
import torch

from byzdist.aggregation import Aggregator, aggregate
from byzdist.registry import Named, Spec

CHAIN: list[Named] = [{"name": "clip", "threshold": 1e3}, "arc", "nnm", {"name": "bucketing", "size": 2}]
CTMA: Named = {"name": "ctma", "rule": "geometric_median"}
COLUMN_RULES: list[Named] = ["coordinate_median", "trimmed_mean", "meamed"]
SPAN_RULES: list[Named] = [
    "mean",
    "krum",
    "multi_krum",
    "geometric_median",
    "centered_clip",
    "mda",
    "monna",
    "caf",
    "cge",
    CTMA,
]


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def alternate(calls: dict[str, Callable[[], object]], repeat: int) -> dict[str, list[float]]:
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeat):
        for name, call in calls.items():
            times[name].append(seconds(call))
    return times


def label(rule: Named) -> str:
    spec = Spec.of(rule)
    return f"{spec.name}({spec.parameters['rule']})" if "rule" in spec.parameters else spec.name


def matrices(n: int, d: int, common: float = 0.0) -> Callable[[], torch.Tensor]:
    """Return a function that gives the next of several equal-looking matrices, 128 MB of them or one."""
    copies = max(1, (128 << 20) // (4 * n * d))
    made = [torch.randn(n, d, generator=torch.Generator().manual_seed(i)) + common for i in range(copies)]
    turn = iter(range(1 << 60))
    return lambda: made[next(turn) % copies]


def passes(arguments: argparse.Namespace) -> None:
    print(
        "threads  n       d  rule                                      passes (median)  (minimum)      ms   one pass ms"
    )
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for n, d in [(20, 100_000), (20, 1_000_000), (20, 10_000_000), (50, 100_000), (50, 1_000_000)]:
            if d > arguments.largest:
                continue
            f, out = n // 4, torch.empty(d)
            candidates: list[tuple[str, Aggregator]] = []
            for rules, chain, note in ((COLUMN_RULES, [], ""), (SPAN_RULES, [], ""), (SPAN_RULES, CHAIN, ", chain")):
                for rule in rules:
                    candidates.append((label(rule) + note, Aggregator(rule, chain)))
                    if arguments.compile and (n == 20 or rules is SPAN_RULES):
                        candidates.append((f"{label(rule)}{note}, compiled", Aggregator(rule, chain, compile=True)))
            sources = {"": matrices(n, d)}
            if d <= 1_000_000:
                sources[" (near)"] = matrices(n, d, common=30.0)
            for note, source in sources.items():
                for name, aggregator in candidates:
                    if arguments.only and arguments.only not in name or note and not name.startswith("krum"):
                        continue
                    generator = np.random.default_rng(0)
                    call = lambda: aggregator(source(), f=f, generator=generator, out=out)  # noqa: B023, E731
                    times = alternate({"rule": call, "pass": lambda: source().sum()}, arguments.repeat)  # noqa: B023
                    ratio = statistics.median(a / b for a, b in zip(times["rule"], times["pass"], strict=True))
                    low = min(times["rule"]) / min(times["pass"])
                    print(
                        f"{threads:7d} {n:2d} {d:8d}  {name + note:42s} {ratio:14.2f} {low:10.2f} "
                        f"{1e3 * min(times['rule']):9.2f} {1e3 * min(times['pass']):9.3f}",
                        flush=True,
                    )


def oneshot(arguments: argparse.Namespace) -> None:
    """Print how much longer a call of ``aggregate`` takes than one of a reused aggregator, which does not look for NaN."""
    n, d = 20, min(arguments.largest, 1_000_000)
    V, f = torch.randn(n, d, generator=torch.Generator().manual_seed(0)), 4
    print(
        f"n = {n}, d = {d}, f = {f}; aggregate(V, rule) over Aggregator(rule, compile='auto')(V), at most 1.2 is wanted"
    )
    print("threads  rule                                one-shot ms   kept ms   ratio (median)")
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for rule in (*COLUMN_RULES, "bulyan", *SPAN_RULES, "smea"):
            if arguments.only not in label(rule):
                continue
            kept = Aggregator(rule, compile="auto")
            calls: dict[str, Callable[[], object]] = {
                "one": lambda: aggregate(V, rule, f=f),  # noqa: B023
                "kept": lambda: kept(V, f=f),  # noqa: B023
            }
            for call in 2 * list(calls.values()):  # loops are compiled at the third call
                call()
            times = alternate(calls, arguments.repeat)
            ratio = statistics.median(a / b for a, b in zip(times["one"], times["kept"], strict=True))
            one, other = (1e3 * statistics.median(times[name]) for name in calls)
            print(f"{threads:7d}  {label(rule):34s} {one:12.2f} {other:9.2f} {ratio:10.2f}", flush=True)


def import_byzfl() -> types.ModuleType:
    """Import ByzFL's aggregators alone: its package imports torchvision and more, which aggregation does not need."""
    spec = importlib.util.find_spec("byzfl")
    if spec is None:
        sys.exit("ByzFL is not installed: pip install byzfl --no-deps")
    package = types.ModuleType("byzfl")
    package.__path__ = list(spec.submodule_search_locations or [])
    sys.modules["byzfl"] = package
    return importlib.import_module("byzfl.aggregators")


def pairs(byzfl: types.ModuleType, f: int) -> dict[str, tuple[Named, list[Named], Callable]]:
    near = byzfl.preaggregators.NNM(f)
    radius = {"name": "centered_clip", "tau": 100.0, "iterations": 1, "start": "zero"}
    trimmed = byzfl.aggregators.TrMean(f)
    return {
        "coordinate_median": ("coordinate_median", [], byzfl.aggregators.Median()),
        "trimmed_mean": ("trimmed_mean", [], trimmed),
        "meamed": ("meamed", [], byzfl.aggregators.Meamed(f)),
        "geometric_median": ("geometric_median", [], byzfl.aggregators.GeometricMedian(nu=1e-6, T=3)),
        "geometric_median, 30 steps": ("geometric_median", [], byzfl.aggregators.GeometricMedian(nu=1e-6, T=30)),
        "krum": ({"name": "krum", "margin": 1}, [], byzfl.aggregators.Krum(f)),
        "multi_krum": ({"name": "multi_krum", "margin": 1}, [], byzfl.aggregators.MultiKrum(f)),
        "centered_clip": (radius, [], lambda V: byzfl.aggregators.CenteredClipping(L=1, tau=100.0)(V)),
        "monna": ("monna", [], byzfl.aggregators.MoNNA(f, 0)),
        "mda": ("mda", [], byzfl.aggregators.MDA(f)),
        "caf": ("caf", [], byzfl.aggregators.CAF(f)),
        "smea": ("smea", [], byzfl.aggregators.SMEA(f)),
        "nnm + trimmed_mean": ("trimmed_mean", ["nnm"], lambda V: trimmed(near(V))),
    }


REASONS = {
    "meamed": "n is even: several values are as near to the median",
    "geometric_median": "ByzFL stops after 3 steps; see the line with 30",
    "mda": "several subsets have the smallest diameter",
    "caf": "ByzFL takes one power step from a random start for the eigenvector; its answer varies from call to call",
    "smea": "ByzFL takes one power step from a random start for the eigenvalue; its answer varies from call to call",
}


def byzfl(arguments: argparse.Namespace) -> None:
    module = import_byzfl()
    for n, f, d in ((21, 3, 3000), (20, 3, 3000), (9, 2, 3000)):
        print(f"\nAgreement, n = {n}, f = {f}, d = {d}: largest difference over largest entry")
        V = torch.randn(n, d, generator=torch.Generator().manual_seed(n)) + 0.2
        V[:f] *= 3
        for name, (rule, pre, theirs) in pairs(module, f).items():
            if name in ("mda", "smea") and n > 9:
                continue  # ByzFL takes minutes
            mine, other = aggregate(V, rule, pre=pre, f=f), theirs(V.clone())
            gap = float((mine - other).abs().max() / mine.abs().max())
            why = "" if gap <= 1e-5 else REASONS.get(name, "NO REASON KNOWN")
            print(f"  {name:28s} {gap:9.1e}  {why}")
    n, d, f = 20, min(arguments.largest, 1_000_000), 5
    V = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    out = torch.empty(d)
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        print(
            f"\nSpeed, n = {n}, f = {f}, d = {d}, {threads} threads: ours ms, theirs ms, times faster (median, minimum)"
        )
        for name, (rule, pre, theirs) in pairs(module, f).items():
            if name in ("mda", "smea") or arguments.only and arguments.only not in name:
                continue
            for compiled in [False, True] if arguments.compile and label(rule) in COLUMN_RULES else [False]:
                ours = Aggregator(rule, pre, compile=compiled)
                calls = {"ours": lambda: ours(V, f=f, out=out), "theirs": lambda: theirs(V)}  # noqa: B023
                times = alternate(calls, max(3, arguments.repeat // 4))
                ratio = statistics.median(b / a for a, b in zip(times["ours"], times["theirs"], strict=True))
                low = {k: min(v) for k, v in times.items()}
                print(
                    f"  {name + (', compiled' if compiled else ''):30s} {1e3 * low['ours']:9.1f} "
                    f"{1e3 * low['theirs']:9.1f} {ratio:8.1f} {low['theirs'] / low['ours']:8.1f}",
                    flush=True,
                )


def peers(arguments: argparse.Namespace) -> None:
    """Print how both answer where peers are known to go wrong."""
    module = import_byzfl()
    generator = torch.Generator().manual_seed(0)
    V = 1000 + 0.01 * torch.randn(30, 20_000, generator=generator)
    squares = torch.stack([((V.double() - row.double()) ** 2).sum(1) for row in V])
    right = int(squares.sort(1).values[:, 1:25].sum(1).argmin())
    which = lambda result: int((V - result).abs().sum(1).argmin())  # noqa: E731
    print(f"mean 1000, spread 0.01, n = 30: krum's row is {right}")
    print(
        f"  ours {which(aggregate(V, {'name': 'krum', 'margin': 1}, f=5))}, "
        f"ByzFL {which(module.aggregators.Krum(5)(V))}"
    )
    four = torch.tensor([[1.0], [2.0], [3.0], [10.0]])
    print(
        f"median of 1 2 3 10: ours {aggregate(four, 'coordinate_median').item()}, "
        f"ByzFL {module.aggregators.Median()(four).item()}"
    )
    W = torch.randn(11, 50, generator=generator)
    W[2] = 1e20
    for name, theirs in (
        ("geometric_median", module.aggregators.GeometricMedian()),
        ("krum", module.aggregators.Krum(2)),
        ("caf", module.aggregators.CAF(2)),
    ):
        ours, other = aggregate(W, name, f=2).norm(), theirs(W)
        print(f"one row of 1e20, length of {name}: ours {ours:.3g}, ByzFL {other if other is None else other.norm()}")
    W[2] = float("nan")
    for name, theirs in (("coordinate_median", module.aggregators.Median()), ("krum", module.aggregators.Krum(2))):
        ours = aggregate(W, name, f=2, nonfinite="drop")
        print(
            f"one row of NaN, {name}: ours finite {bool(ours.isfinite().all())}, "
            f"ByzFL finite {bool(theirs(W).isfinite().all())}"
        )


def extra_memory(call: Callable[[], object]) -> int:
    """Return by how many bytes the process grows at most during a call (Linux: the kernel's own peak, reset before)."""

    def status(key: str) -> int:
        with open("/proc/self/status") as lines:
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))

    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    before = status("VmRSS")
    call()
    return status("VmHWM") - before


def memory(arguments: argparse.Namespace) -> None:
    """Print the peak memory beyond the matrix and the result, as a share of the matrix; a process a rule.

    Every buffer is mapped afresh there: in heap that was freed before and kept, workspaces would not show.
    """
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    print("extra memory as a share of V (at most 0.10), n = 20; control: what a buffer of a tenth of V shows")
    for d in (100_000, 1_000_000, 5_000_000):
        for rule in ["control", *(r for r in (*COLUMN_RULES, "bulyan", *SPAN_RULES) if isinstance(r, str))]:
            for chain in ("", "nnm"):
                if d > arguments.largest or arguments.only not in rule and rule != "control":
                    continue
                command = [sys.executable, __file__, "one", "--rule", rule, "--largest", str(d), "--chain", chain]
                run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
                print(f"  d {d:8d} {rule:20s} {chain:4s} {run.stdout.strip()}", flush=True)


def one(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    V, pre = torch.randn(20, arguments.largest), [arguments.chain] if arguments.chain else []
    out = torch.zeros(arguments.largest)
    if arguments.rule == "control":
        print(f"{extra_memory(lambda: torch.ones(V.numel() // 10)) / V.nbytes:.3f}")
        return
    Aggregator(arguments.rule, pre)(V[:, :30_000], f=4)  # libraries set themselves up
    print(f"{extra_memory(lambda: Aggregator(arguments.rule, pre)(V, f=4, out=out)) / V.nbytes:.3f}")


def latency(arguments: argparse.Namespace) -> None:
    print("microseconds a call: n = 4, d = 123, float64, server's clip, bucketing 2, one thread (median, minimum)")
    torch.set_num_threads(1)
    V = torch.randn(4, 200, dtype=torch.float64)[:, :123]
    out, generator = torch.empty(123, dtype=torch.float64), np.random.default_rng(0)
    for rule in ("coordinate_median", "trimmed_mean", "mean", "krum", "geometric_median", "centered_clip"):
        aggregator = Aggregator(rule, [{"name": "bucketing", "size": 2}])
        call = lambda: aggregator(V, f=1, clip=5.0, generator=generator, out=out)  # noqa: B023, E731
        times = alternate({"": call}, 3000)[""]
        print(f"  {rule:20s} {1e6 * statistics.median(times):8.1f} {1e6 * min(times):8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {f.__name__: f for f in (passes, oneshot, byzfl, peers, memory, latency, one)}
    parser.add_argument("part", choices=parts)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--largest", type=int, default=10_000_000, help="largest d")
    parser.add_argument("--compile", action="store_true", help="time the compiled column rules too")
    parser.add_argument("--only", default="", help="only names that contain this")
    parser.add_argument("--rule", default="mean", help=argparse.SUPPRESS)
    parser.add_argument("--chain", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    parts[arguments.part](arguments)


if __name__ == "__main__":
    main()
