"""Starts real processes for tests: a hard timeout, output shown on failure, and nothing left running."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
_MARK = "BYZDIST_TEST_MARK"  # in the environment of every process that a test starts, and of its children


def free_port() -> int:
    """Return a TCP port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Job:
    """A started command with all its descendants; use as a context manager, which leaves none of them behind."""

    def __init__(self, command: list[str], *, env: dict[str, str] | None = None, cwd: Path | None = None) -> None:
        self.mark = uuid.uuid4().hex
        self.command = command
        self.code: int | None = None
        # A file, not a pipe: a pipe that nobody reads until the end fills up, and the children block on it.
        self._file = tempfile.TemporaryFile()
        self._text = ""
        # Nothing but what the test gives, least of all a rank from a surrounding job.
        inherited = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
        self.process = subprocess.Popen(
            command,
            env={**inherited, "PYTHONUNBUFFERED": "1", **(env or {}), _MARK: self.mark},
            cwd=cwd or ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def output(self) -> str:
        """What the job and its children have printed so far."""
        if not self._file.closed:
            said = self._file.fileno()
            self._text = os.pread(said, os.fstat(said).st_size, 0).decode()  # pread leaves the writers' offset alone
        return self._text

    def wait(self, timeout: float) -> int:
        """Wait for the end; on a timeout everything is killed and the test fails with the output so far."""
        try:
            self.code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise AssertionError(f"no end after {timeout} s: {' '.join(self.command)}\n{self.output}") from None
        return self.code

    def processes(self) -> list[psutil.Process]:
        """Return every live process of this job, wherever it was moved to."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(_MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def rank(self, rank: int, timeout: float = 60) -> psutil.Process:
        """Return the process of a rank, which it has named; a worker has a parent that watches over it, the server has children."""
        until, name = time.monotonic() + timeout, f"byzdist-w{rank}" if rank else "byzdist-server"
        while time.monotonic() < until:
            mine = []
            for process in self.processes():
                with suppress(psutil.Error):
                    if process.name() == name:
                        mine.append(process)
            if mine:
                return (max if rank else min)(mine, key=lambda process: process.create_time())
            time.sleep(0.05)
        raise AssertionError(f"rank {rank} never appeared")

    def kill_all(self) -> None:
        """End whatever is left."""
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()

    def assert_clean(self, patience: float = 10) -> None:
        """Check that no process of the job is left."""
        until = time.monotonic() + patience
        while (left := self.processes()) and time.monotonic() < until:
            time.sleep(0.1)
        names = [" ".join(process.cmdline()) for process in left]
        assert not left, f"left running: {names}\n{self.output}"

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_all()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self._text = self.output
        self._file.close()


@dataclass(frozen=True)
class Run:
    """A finished run's folder and output."""

    folder: Path
    output: str

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json."""
        summary: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return summary

    @property
    def model(self) -> torch.Tensor:
        """The final model as one flat vector."""
        return torch.cat(
            [tensor.flatten() for _, tensor in sorted(load_file(self.folder / "model.safetensors").items())]
        )


def byzdist(*words: str | Path, env: dict[str, str] | None = None) -> Job:
    """Start ``python -m byzdist`` with these words."""
    return Job([sys.executable, "-m", "byzdist", *map(str, words)], env=env)


def comparable(folder: Path, drop: tuple[str, ...] = ("news",)) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl without what differs from run to run: times, and who joined when."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("seconds", *drop)} for line in lines]


def write_config(folder: Path, config: dict[str, Any]) -> Path:
    """Write a configuration into a folder."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def train(folder: Path, config: dict[str, Any], *, workers: int = 2, timeout: float = 120) -> Run:
    """Run an experiment to its end with real processes, and check that it ends well and leaves nothing behind."""
    folder.mkdir(parents=True, exist_ok=True)
    path = write_config(folder, config)
    with byzdist("run", path, "--workers", str(workers), "--out", folder / "run") as job:
        code = job.wait(timeout)
        assert code == 0, job.output
        job.assert_clean()
        return Run(folder / "run", job.output)
