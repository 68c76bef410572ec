"""`byzdist doctor`: what this host offers a run, what is wrong with it, and what to change.

Run it on every host, in the environment of its rank.
"""

import os
import resource
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch

from byzdist import torch_private
from byzdist.errors import ConfigError
from byzdist.host.caching import cache_folder
from byzdist.torch_private import HashStore, ProcessGroupGloo
from byzdist.transport.keys import KEY, KEY_FILE, VARIABLES, own_key, run_secret
from byzdist.transport.sockets import address_towards

_PATIENCE = 5.0  # seconds for each check that needs another end
_FILES = 1024  # open files: enough for some 200 workers
_SHARED_BYTES = 1 << 30  # what nccl needs at most for the ranks of one host
_EPHEMERAL = 1000  # ports: two for each worker, and spare ones

Environment = Mapping[str, str]


@dataclass(frozen=True)
class Finding:
    """What one check found; ``remedy`` says what to change if the level is not "ok"."""

    level: Literal["ok", "warning", "error"]
    subject: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{self.level:8} {self.subject:14} {self.found}"
        return f"{line}\n{'':24}-> {self.remedy}" if self.remedy else line


def check_torch(environment: Environment, gone: Callable[[], list[str]] = torch_private.gone) -> Finding:
    """Check that this build of torch has what byzdist needs to communicate."""
    build = f"torch {torch.__version__}"
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        return Finding(
            "error", "torch", f"{build} without gloo", "install a build of torch with torch.distributed and gloo."
        )
    if lacking := gone():
        return Finding(
            "error", "torch", f"{build} lacks {', '.join(lacking)}", "install a release that byzdist asks for."
        )
    return Finding("ok", "torch", f"{build} with gloo{' and nccl' if torch.distributed.is_nccl_available() else ''}")


def check_gpu(
    environment: Environment, devices: Path = Path("/dev"), build: str | None = torch.version.cuda
) -> Finding:
    """Check that torch sees the GPUs that the kernel shows."""
    there = len(list(devices.glob("nvidia[0-9]*")))
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen:
        names = ", ".join(sorted({torch.cuda.get_device_name(i) for i in range(seen)}))
        return Finding("ok", "GPU", f"{seen} visible: {names}")
    if not there:
        return Finding("ok", "GPU", "none; device: auto means the CPU")
    if build is None:
        return Finding(
            "warning", "GPU", f"{there} there, but this torch is a CPU build", "install a CUDA build (BYZDIST_TORCH)."
        )
    hidden = environment.get("CUDA_VISIBLE_DEVICES")
    why = f"CUDA_VISIBLE_DEVICES={hidden!r} hides them" if hidden is not None else "check the driver with nvidia-smi"
    return Finding("warning", "GPU", f"{there} there, none usable by torch", f"{why}.")


def check_host_name(environment: Environment, look_up: Callable[..., list[Any]] = socket.getaddrinfo) -> Finding:
    """Check that this host's name leads to an address of its own."""
    name = socket.gethostname()
    try:
        address = str(look_up(name, None)[0][4][0])
    except OSError as error:
        remedy = "add the name to /etc/hosts or DNS, or set GLOO_SOCKET_IFNAME."
        return Finding("warning", "host name", f"{name!r} cannot be resolved: {error.strerror}", remedy)
    if address.startswith("127.") or address == "::1":
        remedy = "with more than one host: give MASTER_ADDR as an address, not as this name, or set GLOO_SOCKET_IFNAME."
        return Finding("warning", "host name", f"{name} is {address}, which other hosts cannot reach", remedy)
    return Finding("ok", "host name", f"{name} is {address}")


def check_interface(environment: Environment) -> Finding:
    """Check that gloo can listen at the interface that it is told to use, and that two ends can meet there."""
    wanted = environment.get("GLOO_SOCKET_IFNAME")
    names = [name for _, name in socket.if_nameindex()]
    for name in wanted.split(",") if wanted else []:
        if name not in names:
            remedy = f"set it to one of {', '.join(names)}, or leave it out."
            return Finding("error", "interface", f"GLOO_SOCKET_IFNAME={name}: no such interface", remedy)
    master = environment.get("MASTER_ADDR")
    address = address_towards(master) if master and not wanted else None
    where = wanted or address or "the host name's address"
    try:
        seconds = _meet({"interface": wanted.split(",")[0]} if wanted else {"hostname": address} if address else {})
    except RuntimeError as error:
        remedy = (
            "set GLOO_SOCKET_IFNAME to an interface that is up, and let the firewall pass this host's own connections."
        )
        return Finding("error", "interface", f"two ends cannot meet at {where}: {str(error).splitlines()[0]}", remedy)
    return Finding("ok", "interface", f"two ends met at {where} in {1e3 * seconds:.0f} ms")


def _meet(where: dict[str, str]) -> float:
    """Connect two ends of a link within this process; return the seconds that it took.

    Raises:
        RuntimeError: gloo's, with the reason.
    """
    make: Any = ProcessGroupGloo
    store, failures = HashStore(), []

    def end(me: int) -> None:
        try:
            options = make._Options()
            options._devices = [make.create_device(**where) if where else make.create_default_device()]
            options._threads, options._timeout = 1, timedelta(seconds=_PATIENCE)
            make(store, me, 2, options).barrier().wait()
        except RuntimeError as error:
            failures.append(error)

    started = time.perf_counter()
    ends = [threading.Thread(target=end, args=(me,)) for me in range(2)]
    for thread in ends:
        thread.start()
    for thread in ends:
        thread.join()
    if failures:
        raise failures[0]
    return time.perf_counter() - started


def check_meeting_point(environment: Environment) -> Finding:
    """Check that the store's address, if one is set, can be resolved and reached, or listened on by rank 0."""
    address, port = environment.get("MASTER_ADDR"), environment.get("MASTER_PORT")
    if not address or not port:
        return Finding(
            "ok", "meeting point", "MASTER_ADDR and MASTER_PORT are not set: `byzdist run` chooses them on one host"
        )
    subject = f"{address}:{port}"
    if not port.isdecimal():
        return Finding("error", "meeting point", f"MASTER_PORT={port} is not a number", "set it to the server's port.")
    try:
        family, kind, _, _, there = socket.getaddrinfo(address, int(port), type=socket.SOCK_STREAM)[0]
    except (OSError, ValueError) as error:
        remedy = "set MASTER_ADDR to the server's address, and MASTER_PORT to a port of it."
        return Finding("error", "meeting point", f"{subject} cannot be resolved: {error}", remedy)
    with socket.socket(family, kind) as end:
        end.settimeout(_PATIENCE)
        try:
            if environment.get("RANK") == "0":
                end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                end.bind(("", int(port)))
                return Finding("ok", "meeting point", f"port {port} is free for the server's store")
            end.connect(there)
        except OSError as error:
            if environment.get("RANK") == "0":
                return Finding(
                    "error", "meeting point", f"port {port}: {error.strerror}", "choose another MASTER_PORT."
                )
            remedy = "start the server first, and open the port (and all ports between the hosts) in the firewall."
            return Finding(
                "warning", "meeting point", f"nobody answers at {subject}: {error.strerror or error}", remedy
            )
    return Finding("ok", "meeting point", f"{subject} answers")


def check_ports(environment: Environment, file: Path = Path("/proc/sys/net/ipv4/ip_local_port_range")) -> Finding:
    """Check that the system has enough ports for links, which take any free one."""
    try:
        first, last = map(int, file.read_text().split())
    except (OSError, ValueError):
        return Finding("ok", "ports", "the range for links is not known on this system")
    if last - first < _EPHEMERAL:
        remedy = "widen net.ipv4.ip_local_port_range: a link takes a port of it at each end."
        return Finding("warning", "ports", f"links have only {first} to {last}", remedy)
    return Finding("ok", "ports", f"links take any of {first} to {last}: hosts must let each other through there")


def check_secret(environment: Environment) -> Finding:
    """Check that this rank of a run over several hosts finds its secret: the server the run's, a worker its key."""
    if "RANK" not in environment and not any(name in environment for name in VARIABLES):
        return Finding("ok", "secret", "none set: `byzdist run` makes what a run on one host needs")
    rank = environment.get("RANK", "0")
    try:
        if not rank.isdecimal() or rank == "0":
            run_secret(environment)
            return Finding("ok", "secret", "the run's secret is there")
        own_key(int(rank), environment)
    except ConfigError as error:
        return Finding("error", "secret", "none that can be used", str(error))
    if not any(name in environment for name in (KEY, KEY_FILE)):
        remedy = f"give each worker its own key alone ({KEY_FILE}; `byzdist keys` makes them)."
        return Finding("warning", "secret", "a worker that holds the run's secret can pose as any other", remedy)
    return Finding("ok", "secret", "this worker's key is there")


def check_open_files(environment: Environment, limits: tuple[int, int] | None = None) -> Finding:
    """Check the limit of open files: the server needs a few for each worker."""
    soft, hard = limits or resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _FILES:
        return Finding(
            "warning", "open files", f"at most {soft}", f"`ulimit -n {_FILES}` before the start (hard limit: {hard})."
        )
    return Finding("ok", "open files", f"at most {soft}")


def check_shared_memory(environment: Environment, folder: Path = Path("/dev/shm")) -> Finding:
    """Check the room in shared memory: nccl passes data between the ranks of a host there; the star needs none."""
    if not folder.is_dir():
        return Finding("warning", "shared memory", f"no {folder}", "mount a tmpfs there, as nccl expects.")
    total = shutil.disk_usage(folder).total
    if total < _SHARED_BYTES and torch.cuda.is_available():
        remedy = "give the container more, for example `shm_size: 1gb` in compose or an emptyDir of medium Memory."
        return Finding("warning", "shared memory", f"{total >> 20} MiB in {folder}, little for nccl", remedy)
    return Finding("ok", "shared memory", f"{total >> 20} MiB in {folder}")


def check_memory(environment: Environment, groups: Path = Path("/sys/fs/cgroup")) -> Finding:
    """Report how much memory and how many processors a run may use here, container limits included."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        limit = (groups / name).read_text().strip() if (groups / name).is_file() else "max"
        total = min(total, int(limit)) if limit.isdigit() else total
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("ok", "resources", f"{total / (1 << 30):.1f} GiB of memory, {cores} processors")


def check_cache(environment: Environment) -> Finding:
    """Check that prepared data can be kept."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        remedy = "set BYZDIST_CACHE to a folder that this user can write; until then a temporary one, or none, is used."
        return Finding("warning", "cache", f"cannot write {folder}: {error.strerror}", remedy)
    return Finding("ok", "cache", f"{folder}, {shutil.disk_usage(folder).free >> 30} GiB free")


CHECKS: tuple[Callable[[Environment], Finding], ...] = (
    check_torch,
    check_gpu,
    check_memory,
    check_shared_memory,
    check_open_files,
    check_cache,
    check_host_name,
    check_interface,
    check_meeting_point,
    check_ports,
    check_secret,
)


def examine(environment: Environment = os.environ) -> list[Finding]:
    """Return what every check finds, in order."""
    return [check(environment) for check in CHECKS]
