"""Loops in C, which this machine's compiler compiles in some tenths of a second when they are first needed."""

import ctypes
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

import torch

REALS = {torch.float32: ("float", ctypes.c_float), torch.float64: ("double", ctypes.c_double)}
_FLAGS = "-O3 -march=native -shared -fPIC"
_WIDE = "-mprefer-vector-width=512" if platform.machine() in ("x86_64", "AMD64") else ""
# The loops use the OpenMP threads that torch keeps: other threads would share their cores with torch's, which spin while idle.
_THREADS = "-fopenmp" if sys.platform == "linux" else ""
_PATIENCE = 60.0  # seconds that the compiler may take


def is_possible() -> bool:
    """Return whether there is a C compiler."""
    return _is_found(_compiler()[0], os.environ.get("PATH"))


@lru_cache(maxsize=8)
def _is_found(command: str, path: str | None) -> bool:
    return shutil.which(command, path=path) is not None


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "")) or ["cc"]


def compile_source(source: str, flags: str) -> ctypes.CDLL:
    """Compile a C source and return the loaded library; no file remains.

    Raises:
        OSError, subprocess.SubprocessError: if there is no C compiler (CC, else cc), or it fails.
    """
    with tempfile.TemporaryDirectory(prefix="byzdist-") as folder:
        library = Path(folder, "loop.so")
        command = [*_compiler(), *f"{_FLAGS} {_WIDE} {_THREADS} {flags}".split(), "-x", "c", "-", "-o", str(library)]
        subprocess.run(command, input=source, text=True, check=True, capture_output=True, timeout=_PATIENCE)
        return ctypes.CDLL(str(library))


def threads(total: int, min_share: int) -> int:
    """Return the number of threads for ``total`` units of work, at least ``min_share`` for each thread: at most torch's number."""
    return max(1, min(torch.get_num_threads(), total // min_share))
