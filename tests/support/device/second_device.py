"""What torch loads of the second device: the backend in second.cpp, and a process group that sends its tensors by way of the CPU.

The process group stands in for nccl: only collectives and point-to-point calls that byzdist uses are there.
"""

# mypy: disable-error-code="attr-defined, call-arg, override"
import os
import types
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch


def load() -> None:
    """Give torch the devices "second:0", "second:1", ...; the environment's SECOND_DEVICES says how many."""
    torch.ops.load_library(str(Path(__file__).with_name("second.so")))
    torch.utils.rename_privateuse1_backend("second")
    module: Any = types.ModuleType("torch.second")
    module.is_available = lambda: True
    module.device_count = lambda: int(os.environ.get("SECOND_DEVICES", "1"))
    module.current_device = torch.accelerator.current_device_index
    module.get_rng_state = lambda device=0: torch.get_rng_state()
    module.set_rng_state = lambda state, device=0: torch.set_rng_state(state)
    module.manual_seed_all = lambda seed: None
    module._is_in_bad_fork = lambda: False
    module.get_amp_supported_dtype = lambda: [torch.bfloat16]
    torch._register_device_module("second", module)
    torch.utils.generate_methods_for_privateuse1_backend(for_storage=False)
    torch.distributed.Backend.register_backend("staged", _make_group, devices=["cpu", "second"])


def _make_group(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
    import torch.distributed as dist

    class Waits(dist.Work):
        """A piece of work after which something is copied back to the device."""

        def __init__(self, work: dist.Work, after: Callable[[], object]) -> None:
            super().__init__()
            self._work, self._after = work, after

        def wait(self, timeout: timedelta = timedelta(0)) -> bool:
            done = self._work.wait(timeout) if timeout else self._work.wait()
            self._after()
            return done

    class Staged(dist.ProcessGroup):
        def __init__(self) -> None:
            super().__init__(rank, size)
            self._gloo: Any = dist.ProcessGroupGloo(store, rank, size, timeout)

        def getBackendName(self) -> str:  # noqa: N802 - torch's name
            return "staged"

        def send(self, tensors: Any, to: int, tag: int) -> Any:
            there = [tensor.cpu() for tensor in tensors]
            return Waits(self._gloo.send(there, to, tag), there.clear)  # which keeps the copies until then

        def recv(self, tensors: Any, source: int, tag: int) -> Any:
            there = [tensor.cpu() for tensor in tensors]
            return Waits(self._gloo.recv(there, source, tag), lambda: _copy(there, tensors))

        def broadcast(self, tensors: Any, options: Any) -> Any:
            there = [tensor.cpu() for tensor in tensors]
            return Waits(self._gloo.broadcast(there, options), lambda: _copy(there, tensors))

        def gather(self, outputs: Any, tensors: Any, options: Any) -> Any:
            here, there = [tensor.cpu() for tensor in tensors], [[one.cpu() for one in each] for each in outputs]
            work = self._gloo.gather(there, here, options)
            return Waits(work, lambda: [_copy(*pair) for pair in zip(there, outputs, strict=True)])

    return Staged()


def _copy(sources: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)
