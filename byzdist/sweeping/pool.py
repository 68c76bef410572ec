"""Runs in one process each, a few at a time: forks of this process, which has imported everything."""

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from byzdist.errors import ConfigError, RunError
from byzdist.host.processes import Process, die_with_parent, name_process, start
from byzdist.host.signals import Signals
from byzdist.host.supervisor import GONE
from byzdist.runtime.alone import run_alone
from byzdist.runtime.caller import Caller
from byzdist.runtime.command import RunCommand
from byzdist.sweeping.checking import Planned
from byzdist.sweeping.ranks import Output, say_reason

_LOOK = 0.01  # seconds between two looks at the processes


@dataclass(frozen=True)
class _Working:
    run: Planned
    slot: int
    process: Process
    output: Output


def train_side_by_side(
    runs: Sequence[Planned],
    folder: Path,
    jobs: int,
    signals: Signals,
    look: Callable[[Sequence[str]], None],
    ended: Callable[[Planned, str], None],
) -> None:
    """Train runs of transport ``local``, each in a process of its own, until all have ended; after a signal no other starts.

    Args:
        runs: in the order in which they start.
        folder: the sweep's.
        jobs: how many train at a time.
        signals: those of this process, which the runs get as well: each finishes its round and saves it.
        look: called again and again with the names of the runs in progress.
        ended: called with each run, and with why its process has ended badly if it could not write that down itself.
    """
    waiting, working, passed_on = deque(runs), list[_Working](), 0
    while working or (waiting and not signals.came):
        while waiting and len(working) < jobs and not signals.came:
            slot = min(set(range(jobs)) - {one.slot for one in working})
            working.append(_start(waiting.popleft(), folder, slot))
        for number in signals.came[passed_on:]:
            passed_on += 1
            for one in working:
                one.process.send_signal(number)
        for one in [one for one in working if one.process.poll() is not None]:
            working.remove(one)
            code = one.process.returncode
            killed = f"it was ended by {signal.Signals(-code).name}" if code < 0 else ""
            ended(one.run, killed or (one.output.last_line() if code else ""))
            one.output.close()
        look([one.run.name for one in working])
        time.sleep(_LOOK)


def _start(run: Planned, folder: Path, slot: int) -> _Working:
    me, output = os.getpid(), Output()
    process = start(
        partial(_train, run, folder / run.name, output),
        os.environ | {"LOCAL_RANK": str(slot)},  # decides which of several GPUs it uses
        first=lambda: die_with_parent(me, GONE),
    )
    return _Working(run, slot, process, output)


def _train(run: Planned, folder: Path, output: Output) -> int:
    output.take()
    name_process("byzdist-run")
    try:
        return run_alone(
            RunCommand("-", out=folder, resume=folder.exists(), tree=run.tree), Caller(shows_progress=False)
        ).code
    except (ConfigError, RunError) as error:
        say_reason(error)
        return 1
