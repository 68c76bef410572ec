"""The thin parent, with small commands in place of workers."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

GRANT = "import os, signal; os.write(int(os.environ['BYZDIST_GRANT']), bytes([2]));"
NEVER = "os.write(int(os.environ['BYZDIST_GRANT']), bytes([255]));"
LIVES = "f = open('lives', 'a'); f.write('x'); f.close();"
STOP = "os.kill(os.getpid(), signal.SIGSTOP)"
KILL = "os.kill(os.getpid(), signal.SIGKILL)"


def supervise(folder: Path, program: str, agent: bool = True) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program]
    parent = f"import sys; from byzdist.host import supervisor; supervisor._STOPPED = 1; sys.exit(supervisor.supervise({command!r}))"
    environment = {
        key: value for key, value in os.environ.items() if key not in ("BYZDIST_GRANT", "TORCHELASTIC_RUN_ID")
    }
    environment |= {"RANK": "3"} | ({"TORCHELASTIC_RUN_ID": "1"} if agent else {})
    return subprocess.Popen(
        [sys.executable, "-c", parent], cwd=folder, env=environment, text=True, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize(
    ("program", "code", "lives"),
    [
        ("import sys; sys.exit(0)", 0, 0),
        ("import sys; sys.exit(1)", 1, 0),  # before its grant, an end is what it is
        (f"import os, signal; {LIVES} {KILL}", 128 + signal.SIGKILL, 4),  # it had not said yet what its end means
        (f"import os, signal; {LIVES} {NEVER} {KILL}", 128 + signal.SIGKILL, 1),
        (f"{GRANT} {LIVES} raise SystemExit(1)", 0, 1),
        (f"{GRANT} {LIVES} raise SystemExit(2)", 2, 1),  # a mistake in the configuration
        (f"{GRANT} {LIVES} os.path.getsize('lives') < 2 and {KILL}; raise SystemExit(2)", 0, 2),  # of somebody else's
        (f"{GRANT} {LIVES} os.path.getsize('lives') < 2 and {STOP}", 0, 2),  # nobody lets it go on
        (f"{GRANT} {LIVES} {KILL}", 0, 3),  # once, and twice more
        (f"{GRANT} {LIVES} os.path.getsize('lives') < 2 and {KILL}", 0, 2),
    ],
)
def test_what_the_agent_sees(tmp_path: Path, program: str, code: int, lives: int) -> None:
    process = supervise(tmp_path, program)
    output = process.communicate(timeout=30)[1]
    assert process.returncode == code, output
    file = tmp_path / "lives"
    assert (len(file.read_text()) if file.exists() else 0) == lives
    if lives == 3:
        assert "[w3] the worker process was ended by SIGKILL; starting it again (2 of 2)." in output
        assert "it is not started again (transport.restarts: 2)" in output


@pytest.mark.parametrize(
    ("end", "code"),
    [("pass", 0), ("raise SystemExit(1)", 1), ("raise SystemExit(2)", 2), (KILL, 128 + signal.SIGKILL)],
)
def test_without_an_agent_the_end_is_what_it_is(tmp_path: Path, end: str, code: int) -> None:
    process = supervise(tmp_path, f"{GRANT} {LIVES} {end}", agent=False)
    output = process.communicate(timeout=30)[1]
    assert process.returncode == code, output
    assert len((tmp_path / "lives").read_text()) == (3 if end == KILL else 1)


def test_a_child_that_is_stopped_for_a_while_lives_on(tmp_path: Path) -> None:
    program = f"{GRANT} {LIVES} open('pid', 'w').write(str(os.getpid())); import time; time.sleep(1.2)"
    process = supervise(tmp_path, program)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.02)
    child = int((tmp_path / "pid").read_text())
    os.kill(child, signal.SIGSTOP)
    time.sleep(0.3)
    os.kill(child, signal.SIGCONT)
    output = process.communicate(timeout=30)[1]
    assert process.returncode == 0 and not output
    assert (tmp_path / "lives").read_text() == "x"


def test_a_child_that_is_told_to_end_is_not_started_again(tmp_path: Path) -> None:
    process = supervise(tmp_path, f"{GRANT} {LIVES} import time; time.sleep(60)")
    while not (tmp_path / "lives").exists():
        time.sleep(0.02)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert (tmp_path / "lives").read_text() == "x"


def test_the_child_dies_with_its_parent(tmp_path: Path) -> None:
    process = supervise(tmp_path, f"{GRANT} open('pid', 'w').write(str(os.getpid())); import time; time.sleep(60)")
    file = tmp_path / "pid"
    while not file.exists() or not file.read_text():
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=30)
    child = Path("/proc") / file.read_text() / "stat"
    until = time.monotonic() + 5
    while child.exists() and child.read_text().split()[2] != "Z" and time.monotonic() < until:
        time.sleep(0.02)
    assert not child.exists() or child.read_text().split()[2] == "Z"


def test_it_imports_nothing_heavy() -> None:
    program = "import sys, byzdist.host.supervisor; print(any(name in sys.modules for name in ('torch', 'numpy', 'pydantic')))"
    assert subprocess.run([sys.executable, "-c", program], text=True, capture_output=True).stdout == "False\n"
