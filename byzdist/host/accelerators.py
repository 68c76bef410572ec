"""GPUs and other accelerators of this host: how many torch sees, and which one a rank uses."""

import os

import torch

from byzdist.errors import ConfigError

CPU = torch.device("cpu")


def count(kind: str) -> int:
    """Return how many devices of a kind, such as "cuda" or "xpu", torch sees; 0 also for kinds that it does not know.

    This asks the driver's library and does not start CUDA, which would not work in later forks of this process.
    """
    try:
        return int(torch.get_device_module(kind).device_count())
    except (RuntimeError, AttributeError):
        return 0


def choose_device(wanted: str, local_rank: int) -> torch.device:
    """Return the device of a rank: each has a GPU, and shares it if the host has more ranks than GPUs.

    Args:
        wanted: the configuration's ``device``, already checked: "auto", "cpu", a kind, or a kind and a number.
        local_rank: the rank's number among those of its host.
    """
    kind, _, number = wanted.partition(":")
    if kind == "auto":
        kind = "cuda" if count("cuda") else "cpu"
    if kind == "cpu" or number:
        return torch.device(wanted if number else kind)
    return torch.device(kind, local_rank % count(kind))


def use(device: torch.device) -> None:
    """Make a device the one that this process computes on, by kernels that give the same bits each time, where torch has some.

    Raises:
        ConfigError: if it cannot be used, with the driver's reason.
    """
    if device == CPU:
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # with which cuBLAS gives the same bits each time
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        torch.accelerator.set_device_index(device)  # nccl uses this device, too
        torch.zeros(1, device=device).cpu()
    except RuntimeError as error:
        remedy = "Use device=cpu, or see what `byzdist doctor` says."
        if "fork" in str(error):
            remedy = "Set PYTORCH_NVML_BASED_CUDA_CHECK=1 before the script asks for GPUs, or use workers=0."
        raise ConfigError(f"device: {device} cannot be used: {str(error).splitlines()[0]} {remedy}") from error


def link_device(wanted: str, device: torch.device, transport: str) -> torch.device:
    """Return where messages lie in a process that computes on ``device``: gloo sends from the CPU's memory, nccl from a GPU's.

    nccl needs a GPU for each rank. Ranks that share one use gloo, as the star always does.
    """
    if transport != "collective" or device == CPU:
        return CPU
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    shared = ranks > (1 if ":" in wanted else count(device.type))
    return CPU if shared else device
