"""What happens to gateways and their keeper from outside, and how much memory a hostile worker makes them use."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from byzdist.errors import RunError
from byzdist.transport.star import keeper
from tests.support.star import Star, enter_in, shape_of, truth, until, values

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="the star's server runs on Linux")


def keeper_of(star: Star) -> psutil.Process:
    return psutil.Process(star.server.gateways.keeper)


def gateway_of(star: Star, rank: int) -> psutil.Process:
    """Return the gateway of a worker, which the server takes for joined."""
    (found,) = (process for process in keeper_of(star).children() if process.name() == f"byzdist-g{rank}")
    return found


def assert_heard(star: Star, *clients: int, deadline: float = 5.0) -> None:
    replies = star.ask(full=True, deadline=deadline)
    for client in clients:
        assert torch.equal(values(replies[client]), truth(star, client, full=True)), client


def test_a_gateway_that_is_stopped_is_replaced_and_others_do_not_suffer() -> None:
    with Star(shape_of(2)) as star:
        star.start_honest(1, 2)
        star.joined(1, 2)
        gateway_of(star, 2).send_signal(signal.SIGSTOP)
        until(star, lambda: star.server.events)
        assert star.server.events[0] == "worker 2 left: its gateway was ended by SIGKILL"
        assert_heard(star, 0)
        until(star, lambda: "worker 2 joined" in star.server.events)
        assert "worker 1" not in " ".join(star.server.events)
        assert star.server.snapshot(0)["workers"] == [], "it is no fault of the worker's"
        assert_heard(star, 0, 1)


def test_a_keeper_that_is_stopped_is_woken() -> None:
    with Star(shape_of(2)) as star:
        star.start_honest(1, 2)
        star.joined(1, 2)
        keeper_of(star).send_signal(signal.SIGSTOP)
        gateway_of(star, 2).kill()
        assert_heard(star, 0, deadline=0.5)
        until(star, lambda: len(star.server.available()) and "worker 2 joined" in star.server.events)
        assert_heard(star, 0, 1)


def test_a_terminals_stop_is_the_servers_and_the_workers_alone() -> None:
    with Star(shape_of(1)) as star:
        star.start_honest(1)
        star.joined(1)
        for process in (keeper_of(star), gateway_of(star, 1)):
            process.send_signal(signal.SIGTSTP)
        time.sleep(0.2)
        assert_heard(star, 0)
        assert star.server.events == []


def test_no_gateway_outlives_its_keeper() -> None:
    with Star(shape_of(2)) as star:
        star.start_honest(1, 2)
        star.joined(1, 2)
        gateways = keeper_of(star).children()
        keeper_of(star).send_signal(signal.SIGSTOP)
        gateways[0].send_signal(signal.SIGSTOP)
        keeper_of(star).kill()
        gone, left = psutil.wait_procs(gateways, timeout=5)
        assert not left
        with pytest.raises(RunError, match="was ended from outside"):
            for _ in range(3):
                star.ask(full=True)


def test_gateways_are_the_first_to_go_and_have_limits() -> None:
    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    with Star(shape_of(2)) as star:
        star.start_honest(1)
        star.joined(1)
        for process in keeper_of(star).children():
            assert Path(f"/proc/{process.pid}/oom_score_adj").read_text().strip() == "1000"
            limits = Path(f"/proc/{process.pid}/limits").read_text()
            held = int(re.search(r"Max data size +(\S+)", limits)[1])
            used = data_of(process)
            assert (
                used
                < held
                <= used + keeper._ROOM + 2 * keeper._REPLY + keeper._THREADS * max(keeper._STACK, stack) + 2**20
            )
        for pid in (star.server.gateways.keeper, os.getpid()):
            assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() != "1000"


def data_of(process: psutil.Process) -> int:
    """Return the bytes that count towards a process's limit."""
    return int(re.search(r"VmData:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1]) * 1024


def test_what_a_worker_makes_its_gateway_hold_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """It sends under tags that nobody waits for; gloo notes each of them, and looks through all of them for each."""
    monkeypatch.setattr(keeper, "_THREADS", 0)
    with Star(shape_of(2)) as star:
        star.start_honest(1)
        star.joined(1)
        assert_heard(star, 0)
        needed = data_of(gateway_of(star, 1)) - data_of(keeper_of(star))
    assert needed < keeper._ROOM
    monkeypatch.setattr(keeper, "_ROOM", needed + 2**21)  # the true limit takes minutes
    with Star(shape_of(2)) as star:
        star.start_honest(1)
        star.joined(1)
        link = enter_in(star, 2)
        star.server.events.clear()
        nothing, sent = torch.zeros(1, dtype=torch.uint8), []
        for tag in range(100, 200_000):
            try:
                sent.append(link._group.send([nothing], 0, tag))
            except RuntimeError:
                break
            if tag % 2000 == 0:
                replies = star.ask([0], full=True, deadline=5.0)
                assert torch.equal(values(replies[0]), truth(star, 0, full=True))
                if star.server.events:
                    break
        until(star, lambda: star.server.events, patience=60.0)
        assert star.server.events[0].startswith("worker 2 left: "), star.server.events
        assert star.server.snapshot(0)["workers"][0][:2] == [2, 1], "it is an offence"
        assert_heard(star, 0)


SAVING = """
import os, resource, sys
from pathlib import Path
import torch
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
from byzdist.config.schema import Checkpoints
from byzdist.storage.export import save_model
from byzdist.reporting.metrics import Metrics
from byzdist.storage.saving import ServerSaver
from byzdist.transport.star.server import _make_room_for_files
folder = Path(sys.argv[1])
_make_room_for_files(2)
metrics = Metrics(folder)
saver = ServerSaver(folder, "r", Checkpoints(every=1, minutes="none"), {}, None, metrics.sync)
try:
    while True:
        os.open(os.devnull, os.O_RDONLY)  # as a stranger's connections would
except OSError as error:
    assert error.errno == 24, error
assert saver.finish(3, lambda: ({"x": torch.ones(3)}, {"value": 3})) == []
save_model(torch.nn.Linear(2, 1), torch.ones(3), folder, 3)
metrics.close("stopped")
try:
    for _ in range(5):  # some that the metrics had are free now
        os.open(os.devnull, os.O_RDONLY)
    sys.exit("the spare descriptors are open to all")
except OSError:
    pass
"""


def test_a_server_can_save_when_its_descriptors_are_used_up(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SAVING, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for name in ("round-00000003.safetensors", "model.safetensors", "model.pt", "summary.json"):
        assert (tmp_path / name).exists(), name
