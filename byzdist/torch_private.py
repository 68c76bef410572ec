"""All names of torch that its documentation does not promise, in one file: the error for a release that lacks one names it."""

from importlib.metadata import PackageNotFoundError, requires

import torch

from byzdist.errors import ConfigError

try:
    from torch._C._distributed_c10d import HashStore, PrefixStore, ProcessGroupGloo, Store, TCPStore, Work
except ImportError as error:
    try:
        tried = next(line for line in requires("byzdist") or [] if line.startswith("torch"))
    except (PackageNotFoundError, StopIteration):
        tried = "the releases in pyproject.toml"
    raise ConfigError(f"torch {torch.__version__} does not fit: {error}. byzdist is tried with {tried}.") from error

MEMBERS = {
    ProcessGroupGloo: ("_Options", "create_device", "create_default_device", "send", "recv", "barrier"),
    Store: ("get", "set", "wait", "check", "delete_key", "set_timeout"),
    Work: ("wait",),
}
"""Their members that are used."""

__all__ = ["HashStore", "PrefixStore", "ProcessGroupGloo", "Store", "TCPStore", "Work", "gone"]


def gone() -> list[str]:
    """Return the members that this build of torch lacks, such as "ProcessGroupGloo.create_device"."""
    lacking = [
        f"{owner.__name__}.{name}" for owner, names in MEMBERS.items() for name in names if not hasattr(owner, name)
    ]
    options = ProcessGroupGloo._Options() if hasattr(ProcessGroupGloo, "_Options") else None
    return lacking + [f"_Options.{name}" for name in ("_devices", "_threads", "_timeout") if not hasattr(options, name)]
