"""Warns of a torchrun that unpickles what it finds in an open store.

torchrun's dynamic rendezvous (c10d, and also etcd) keeps its state pickled in a store, and each agent unpickles it again and
again. c10d's store listens on all interfaces. torchrun uses it if neither --master-port nor --rdzv-endpoint is given. The static
rendezvous pickles nothing.
"""

import logging
import os
from datetime import timedelta

from torch.distributed import DistError

from byzdist.torch_private import TCPStore

log = logging.getLogger(__name__)
_PATIENCE = timedelta(seconds=5)  # the longest wait for an answer of the agent's store


def warn_of_torchrun() -> None:
    """Warn if anybody who reaches the store of this rank's agent can make it run code."""
    if "TORCHELASTIC_RUN_ID" in os.environ and not _is_static(os.environ["TORCHELASTIC_RUN_ID"]):
        log.warning(
            "torchrun's rendezvous listens on all interfaces of its host and unpickles what it finds in its store: whoever "
            "reaches that port can run code as you. Start torchrun with --master-addr and --master-port (for ranks on one host: "
            "--master-addr 127.0.0.1 --master-port 29500), or use `byzdist run`."
        )


def _is_static(job: str) -> bool:
    """Return whether the agent's rendezvous is the static one, which uses one store with the ranks."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return False
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = TCPStore(address, port, None, False, _PATIENCE, wait_for_workers=False)
        return bool(store.check([f"{job}/torchelastic/role_info/0"]))
    except (DistError, RuntimeError):
        return False
