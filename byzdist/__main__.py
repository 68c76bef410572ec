"""``python -m byzdist``, the console script, and the start of every rank: first guards, then the command line."""

import os
import sys

if sys.path and sys.path[0] == os.getcwd():  # files in the working folder must not hide a library
    sys.path.append(sys.path.pop(0))

import _signal  # type: ignore[import-not-found]  # noqa: E402 - the core of `signal`; it takes no time to import


def main() -> int:
    """Run the command of this process's command line; return its exit code."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # no traceback, even in the imports before the guards
    from byzdist.host import interrupt, speech

    interrupt.end_at_once()
    speech.protect()
    from byzdist.cli.main import main as run

    code = run()
    if "torch" in sys.modules and "RANK" not in os.environ:  # a rank may have messages under way
        _leave(code)
    return code


def _leave(code: int) -> None:
    """End this process without unloading torch, which takes seconds on a busy machine."""
    import logging

    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    raise SystemExit(main())
