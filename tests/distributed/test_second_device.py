"""The tests in tests/accelerator, on a device that a few hundred lines of C++ make of the CPU's memory (tests/support/device).

A GPU is not needed for what it finds: tensors on the wrong device, and calls that a GPU would make too often. It says nothing about
speed, memory or the precision of a GPU's kernels.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.harness import Job

SOURCE = Path(__file__).parents[1] / "support/device"
COMPILER = os.environ.get("CXX", "c++")


@pytest.fixture
def second(tmp_path):
    """A folder from which torch loads the device, as it loads the packages of other vendors' devices: by an entry point."""
    if shutil.which(COMPILER) is None:
        pytest.skip(f"no C++ compiler ({COMPILER}) to make the device with")
    library = Path(torch.__file__).parent
    headers = [f"-I{library}/include", f"-I{library}/include/torch/csrc/api/include"]
    command = [COMPILER, "-std=c++20", "-fPIC", "-shared", *headers, str(SOURCE / "second.cpp"), f"-L{library}/lib"]
    subprocess.run([*command, "-ltorch_cpu", "-lc10", "-o", str(tmp_path / "second.so")], check=True, timeout=200)
    shutil.copy(SOURCE / "second_device.py", tmp_path)
    described = tmp_path / "second_device-1.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: second-device\nVersion: 1\n")
    (described / "entry_points.txt").write_text("[torch.backends]\nsecond = second_device:load\n")
    return tmp_path


@pytest.mark.timeout(600)
def test_what_a_gpu_computes_a_second_device_computes(second):
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-q", "tests/accelerator"]
    path = os.pathsep.join([str(second), *filter(None, [os.environ.get("PYTHONPATH")])])
    # Three devices: one for each rank, so that the collective sends from device to device.
    with Job(command, env={"PYTHONPATH": path, "SECOND_DEVICES": "3"}) as job:
        assert job.wait(500) == 0, f"{shlex.join(command)}\n{job.output}"
        closing = job.output.splitlines()[-1]
        assert " passed" in closing and "skipped" not in closing, job.output
