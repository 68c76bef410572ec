"""Restores the state of a process that continues after a run."""

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
import torch.distributed as dist

from byzdist.host.processes import name_process, process_name
from byzdist.problem.data.generators import restored_generators
from byzdist.reporting import logs
from byzdist.runtime.stopping import signals_given_back


@contextmanager
def undisturbed() -> Iterator[None]:
    """Restore the state of this process at the end of a run, in whatever way it ends.

    That is its environment, signals, loggers, import path, limits, number of threads, random states, default process group and name.
    """
    environment, path, limits = dict(os.environ), sys.path[:], resource.getrlimit(resource.RLIMIT_NOFILE)
    threads, name, had_group = torch.get_num_threads(), process_name(), _has_group()
    same_bits = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with restored_generators(), signals_given_back(), logs.given_back():
        try:
            yield
        finally:
            if _has_group() and not had_group:
                dist.destroy_process_group()
            if on_gpus:
                torch.cuda.set_rng_state_all(on_gpus)
            torch.use_deterministic_algorithms(same_bits[0], warn_only=same_bits[1])
            torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
            torch.set_num_threads(threads)
            name_process(name)
            with suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            sys.path[:] = path
            for key in os.environ.keys() - environment.keys():
                del os.environ[key]
            os.environ.update(environment)


def _has_group() -> bool:
    return dist.group.WORLD is not None
