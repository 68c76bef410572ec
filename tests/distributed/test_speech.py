"""Standard output cannot end a run: streams that fail go quiet. Each case is a small process of its own."""

import os
import pty
import subprocess
import sys
import termios
import time
from contextlib import suppress

import pytest

from tests.support.harness import ROOT

START = "import sys; from byzdist.host import speech; speech.protect()\n"


def python(code, **options):
    options.setdefault("stderr", subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", START + code], cwd=ROOT, **options)


def ended(process, timeout=20):
    _, errors = process.communicate(timeout=timeout)
    assert not errors, errors.decode()
    return process.returncode


def test_a_reader_that_goes_away_ends_nothing():
    reader, writer = os.pipe()
    process = python(
        "import time\nfor i in range(40):\n  print('x' * 5000)\n  time.sleep(0.01)\nsys.exit(5)", stdout=writer
    )
    os.close(writer)
    os.read(reader, 100)
    os.close(reader)
    assert ended(process) == 5


def test_a_reader_that_goes_away_before_the_last_flush_ends_nothing():
    reader, writer = os.pipe()
    os.close(reader)
    process = python("print('a few words')", stdout=writer)
    os.close(writer)
    assert ended(process) == 0  # Python alone: 120, and "Exception ignored in"


def test_a_terminal_that_closes_ends_nothing():
    master, slave = pty.openpty()
    code = "import time\nfor i in range(60):\n  print(i, flush=True)\n  print(i, file=sys.stderr, flush=True)\n  time.sleep(0.01)\n"
    process = python(code + "sys.exit(5)", stdout=slave, stderr=slave)
    os.close(slave)
    os.read(master, 100)
    os.close(master)
    assert process.wait(20) == 5


@pytest.mark.parametrize("encoding", ["ascii", "latin-1:strict", "cp1252"])
def test_a_letter_that_the_encoding_lacks_is_written_in_others(encoding):
    env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    process = python("print('l\\u00e4uft \\u2713'); print('\\u2717', file=sys.stderr)", stdout=subprocess.PIPE, env=env)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0 and b"\\u2713" in out and b"\\u2717" in err


@pytest.mark.parametrize("closed", [[1], [2], [0, 1, 2]])
def test_streams_that_were_never_open_are_no_place_for_other_files(closed, tmp_path):
    code = f"""
file = open({str(tmp_path / "file")!r}, "w")
assert file.fileno() > 2
print("to nobody"); print("to nobody", file=sys.stderr); sys.stdout.isatty()
import os; os.write(1, b"to nobody"); os.write(2, b"to nobody")
file.close(); assert open(file.name).read() == ""
sys.exit(5)
"""
    # What the child closes before the program starts, it would not get back.
    shut = " ".join(f"{number}>&-" for number in closed)
    command = f"exec {shut} ; exec {sys.executable} -c '{START}'\"$CODE\""
    process = subprocess.Popen(["bash", "-c", command], cwd=ROOT, env={**os.environ, "CODE": code})
    assert process.wait(20) == 5


def test_a_slow_reader_is_not_waited_for_once_told_so():
    reader, writer = os.pipe()
    code = "speech.wait_for_nobody()\nfor i in range(3000):\n  print('y' * 60, flush=True)\nsys.exit(5)"
    process = python(code, stdout=writer)
    os.close(writer)
    assert ended(process) == 5  # 180 kB into a pipe of 64 kB that nobody reads
    assert os.read(reader, 10**6).count(b"\n") > 100
    os.close(reader)


def test_a_stopped_terminal_is_not_waited_for_once_told_so():
    master, slave = pty.openpty()
    code = "speech.wait_for_nobody()\nimport time\nfor i in range(50):\n  print(i, flush=True)\n  time.sleep(0.01)\nsys.exit(5)"
    termios.tcflow(slave, termios.TCOOFF)  # Ctrl-S
    process = python(code, stdout=slave)
    try:
        assert ended(process) == 5
    finally:
        process.kill()
        os.close(slave)
        os.close(master)


def test_others_get_every_word():
    process = python("for i in range(5000): print('z' * 60)", stdout=subprocess.PIPE)
    time.sleep(0.5)  # the pipe is full by now
    out, _ = process.communicate(timeout=20)
    assert out.count(b"z" * 60 + b"\n") == 5000 and process.returncode == 0


def test_protected_twice_is_protected_once():
    code = "first = sys.stdout; speech.protect(); assert sys.stdout is first; speech.say('once')"
    process = python(code, stdout=subprocess.PIPE)
    out, _ = process.communicate(timeout=20)
    with suppress(ProcessLookupError):
        process.kill()
    assert out == b"once\n"
