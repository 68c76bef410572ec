"""What can be said of a torchrun that somebody else has started: whether its agent unpickles what it finds in an open store.

torchrun's dynamic rendezvous (c10d, and etcd likewise) keeps its state in a store, pickled, and each agent unpickles it, again and
again. It is what torchrun takes where neither --master-port nor --rdzv-endpoint is given. The static rendezvous pickles nothing.
"""

import logging
import os
import re
from datetime import timedelta
from pathlib import Path

from torch._C._distributed_c10d import TCPStore
from torch.distributed import DistError

log = logging.getLogger(__name__)
_PATIENCE = timedelta(seconds=5)  # for what the agent's store has at hand
_LISTENS = "0A"  # the kernel's number of that state
_LOOPBACK = re.compile("[0-9A-F]{6}7F|0{24}01000000|0{16}FFFF0000[0-9A-F]{6}7F")  # its notation, 32 bits at a time


def warn_of_torchrun() -> None:
    """Say so loudly if the agent of this rank can be made to run the code of whoever reaches its store."""
    if "TORCHELASTIC_RUN_ID" in os.environ and _unpickles() and not _is_private(int(os.environ["MASTER_PORT"])):
        log.warning(
            "torchrun's rendezvous listens on all interfaces of its host and unpickles what it finds in its store: whoever "
            "reaches that port can run code as you. Start torchrun with --master-addr and --master-port (for ranks on one host: "
            "--master-addr 127.0.0.1 --master-port 29500), or use `byzdist run`."
        )


def _unpickles() -> bool:
    """Return whether the agent's rendezvous is a dynamic one, by what it keeps in the store."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":  # the static one lets ranks use its store
        return True
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = TCPStore(address, port, None, False, _PATIENCE, wait_for_workers=False)
        return bool(store.check([f"torch.rendezvous.{os.environ['TORCHELASTIC_RUN_ID']}"]))
    except (DistError, RuntimeError):
        return False


def _is_private(port: int, tables: tuple[str, ...] = ("/proc/net/tcp", "/proc/net/tcp6")) -> bool:
    """Return whether this host listens at a port, and on loopback alone, as far as it shows that (Linux)."""
    found = []
    for table in tables:
        for line in Path(table).read_text().splitlines()[1:] if Path(table).exists() else []:
            _, here, _, state, *_ = line.split()
            address, _, number = here.partition(":")
            if state == _LISTENS and int(number, 16) == port:
                found.append(address)
    return bool(found) and all(_LOOPBACK.fullmatch(address) for address in found)
