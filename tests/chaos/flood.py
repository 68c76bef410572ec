"""A stranger who knows nothing but the store's port: ``python -m tests.chaos.flood PORT SECONDS``; prints what it has sent.

Half of the time it fills the store with large values, from several connections at once, and half of the time it opens as many
connections as it gets, and keeps them.
"""

import resource
import socket
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta

from torch.distributed import DistError

from byzdist.torch_private import TCPStore

VALUE = "x" * (8 << 20)  # the largest that a store takes
CONNECTIONS = 4


def fill(port: int, until: float, sent: list[int]) -> None:
    number = 0
    while time.monotonic() < until:
        with suppress(DistError, RuntimeError):
            store = TCPStore("127.0.0.1", port, None, False, timedelta(seconds=2), wait_for_workers=False)
            while time.monotonic() < until:
                store.set(f"{threading.get_ident()}/{number}", VALUE)
                sent.append(len(VALUE))
                number += 1
        time.sleep(0.05)


def occupy(port: int, until: float) -> int:
    held, most = list[socket.socket](), 0
    while time.monotonic() < until:
        try:
            held.append(socket.create_connection(("127.0.0.1", port), timeout=1))
            held[-1].send(b"\0\1\2\3")
        except OSError:
            time.sleep(0.01)
        most = max(most, len(held))
    return most


def main() -> None:
    port, seconds = int(sys.argv[1]), float(sys.argv[2])
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 8192), most))
    half, sent = time.monotonic() + seconds / 2, list[int]()
    threads = [threading.Thread(target=fill, args=(port, half, sent)) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    connections = occupy(port, half + seconds / 2)
    print({"megabytes": sum(sent) >> 20, "connections": connections}, flush=True)


if __name__ == "__main__":
    main()
