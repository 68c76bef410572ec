"""Ctrl-C at random moments of a run's first seconds: lines printed, seconds to the end, exit code, processes left.

Usage: python -m tests.chaos.interrupts [--moments 20] [--repeats 5] [--seconds 10] [--slice 1/3] [--out FILE]

Prints a line for each moment, and appends each run to FILE as JSON.
"""

import argparse
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from tests.support.cases import BASE
from tests.support.harness import byzdist, write_config

ENDLESS = {**BASE, "rounds": 10**7, "clients": {"count": 4, "byzantine": 1}}
ENDLESS["method"] = {**BASE["method"], "cohort": 3}
_PATIENCE = 60.0


def interrupt(moment: float, folder: Path) -> dict[str, Any]:
    """Press Ctrl-C so many seconds after the start of a run; return what came of it."""
    with byzdist("run", write_config(folder, ENDLESS), "--workers", "2", "--out", folder / "run") as job:
        time.sleep(moment)
        trains = (folder / "run" / "metrics.jsonl").exists()
        begun = time.monotonic()
        os.killpg(job.process.pid, signal.SIGINT)
        code = job.wait(_PATIENCE)
        seconds = time.monotonic() - begun
        psutil.wait_procs(job.processes(), timeout=1)
        left = len(job.processes())
        lines = job.output.splitlines()
    return {
        "moment": round(moment, 2),
        "trains": trains,
        "seconds": round(seconds, 2),
        "code": code,
        "lines": len(lines),
        "traceback": "Traceback" in job.output or "Exception ignored" in job.output,
        "left": left,
        "last": lines[-1] if lines else "",
        "output": job.output if len(lines) > 12 else "",
    }


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--slice", default="1/1")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    part, parts = map(int, options.slice.split("/"))
    draw = random.Random(0)
    moments = sorted(draw.uniform(0, options.seconds) for _ in range(options.moments))
    for moment in moments[part - 1 :: parts]:
        runs = []
        for _ in range(options.repeats):
            with tempfile.TemporaryDirectory() as folder:
                runs.append(interrupt(moment, Path(folder)))
            if options.out:
                with options.out.open("a") as file:
                    file.write(json.dumps(runs[-1]) + "\n")
        print(
            f"{moment:5.2f} s  {'trains' if runs[0]['trains'] else 'starts'}  lines {[run['lines'] for run in runs]}  "
            f"s {[run['seconds'] for run in runs]}  rc {[run['code'] for run in runs]}  left {[run['left'] for run in runs]}  "
            f"tracebacks {sum(run['traceback'] for run in runs)}  {Counter(run['last'].strip()[:40] for run in runs).most_common(1)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
