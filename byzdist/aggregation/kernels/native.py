"""Loops in C, made by this machine's compiler in some tenths of a second when they are first needed."""

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
# The threads are those that torch keeps: others would find its own on their cores, waiting for work.
_THREADS = "-fopenmp" if sys.platform == "linux" else ""
_PATIENCE = 60.0  # seconds for the compiler


def is_possible() -> bool:
    """Return whether there is a C compiler."""
    return _is_found(_compiler()[0], os.environ.get("PATH"))


@lru_cache(maxsize=8)
def _is_found(command: str, path: str | None) -> bool:
    return shutil.which(command, path=path) is not None


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "")) or ["cc"]


def compile_source(source: str, flags: str) -> ctypes.CDLL:
    """Return the library of a C source; no file is left of it.

    Raises:
        OSError, subprocess.SubprocessError: without a C compiler (CC, else cc) that can do it.
    """
    with tempfile.TemporaryDirectory(prefix="byzdist-") as folder:
        library = Path(folder, "loop.so")
        command = [*_compiler(), *f"{_FLAGS} {_WIDE} {_THREADS} {flags}".split(), "-x", "c", "-", "-o", str(library)]
        subprocess.run(command, input=source, text=True, check=True, capture_output=True, timeout=_PATIENCE)
        return ctypes.CDLL(str(library))


def threads(total: int, least: int) -> int:
    """Return in how many threads to do ``total`` units of work, each of them at least ``least``: at most as many as torch has."""
    return max(1, min(torch.get_num_threads(), total // least))
