"""Forks with little memory of their own, for gateways: a run may have thousands of them.

`fork` leaves out what Python renews in each child (locks of logging, random and the like), and `fill_heap` makes a child allocate
on fresh pages, so that it copies fewer of its parent's pages. Together they save a sixth of a gateway's private memory: 3.2 MB in place of
3.9 in the quickstart (tests/benchmarks/gateway_memory.py).
"""

import ctypes
import os

# PyDLL keeps the interpreter's lock, as os.fork does.
_FORK = ctypes.PyDLL(None, use_errno=True).fork
_MALLOC = ctypes.CDLL(None).malloc
_HOLES = (16384, 4096, 2048, 1024, 512, 256, 128, 96, 64, 48, 32, 24)  # bytes
_FILL = 2**19  # bytes for each size of hole


def fork() -> int:
    """Fork this process, which must have one thread; return the child's process id, and 0 in the child.

    Raises:
        OSError: the system has no room for a process.
    """
    if (pid := int(_FORK())) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return pid


def fill_heap() -> None:
    """Take up the small holes that the past of this process has left in its heap, and never give them back."""
    for size in _HOLES:
        for _ in range(_FILL // size):
            _MALLOC(size)
