"""`byzdist keys`: the secrets of a run on several hosts."""

import argparse
from pathlib import Path

from byzdist.cli.run import positive

HELP = "make the secret of a run on several hosts, and each worker's key"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the number of workers and the folder."""
    parser.add_argument("--workers", type=positive, metavar="N", required=True, help="how many workers the run has")
    parser.add_argument("--out", type=Path, metavar="DIR", default=Path("keys"), help="where to (default: keys)")


def run(arguments: argparse.Namespace) -> int:
    """Write the secret and the keys, and say which is for whom."""
    from byzdist.transport.keys import write_keys

    write_keys(arguments.out, arguments.workers)
    print(
        f"{arguments.out}/secret is for the server (BYZDIST_SECRET_FILE), {arguments.out}/workers/worker-R.key for worker R "
        "alone (BYZDIST_KEY_FILE)."
    )
    return 0
