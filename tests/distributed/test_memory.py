"""How much memory an aggregation takes in addition to its input, in a process of its own."""

import os
import subprocess
import sys

import pytest


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="reads the peak that Linux keeps")
def test_the_extra_memory_is_a_tenth_of_the_input_and_one_vector():
    script = """
import torch
from byzdist.aggregation import Aggregator

def status(key):
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))

def extra(call):
    open("/proc/self/clear_refs", "w").write("5")
    before = status("VmRSS")
    call()
    return (status("VmHWM") - before) / V.nbytes

torch.set_num_threads(1)
V, out = torch.randn(20, 500_000), torch.zeros(500_000)
print(extra(lambda: torch.ones(V.numel() // 5)))
for common in (0, 30):
    V += common
    for rule in ("trimmed_mean", "krum", "smea", {"name": "ctma", "rule": "trimmed_mean"}, "bulyan"):
        Aggregator(rule, ["nnm"])(V[:, :20_000], f=2)  # what is loaded once
        print(extra(lambda: Aggregator(rule, ["nnm"])(V, f=4, out=out)))
    loops = Aggregator("krum", ["nnm"], compile=True)
    loops(V[:, :20_000], f=2)
    print(extra(lambda: loops(V, f=4, out=out)))
"""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # else buffers hide in heap that was freed and kept
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    control, *shares = map(float, run.stdout.split())
    assert control >= 0.18  # the instrument sees a buffer of a fifth
    assert len(shares) == 12 and all(0 < share <= 0.1 for share in shares), shares
