"""The tutorial's commands run, and show what the page says that they show."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def test_the_python_lines_show_what_the_page_shows():
    text = "\n".join(block for kind, block in BLOCKS if kind == "python")
    test = doctest.DocTestParser().get_doctest(text, {}, "tutorial", str(PAGE), 0)
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    assert len(test.examples) > 6 and runner.run(test, out=told.append).failed == 0, "".join(told)


def test_the_commands_end_as_the_page_says_with_the_numbers_that_it_shows(tmp_path):
    (tmp_path / "byzdist").write_text(f'#!/bin/sh\nexec {sys.executable} -m byzdist "$@"\n')
    (tmp_path / "byzdist").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(PAGE.parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    (tmp_path / "work").mkdir()
    told, shown = "", 0
    for kind, block in BLOCKS:
        if kind == "sh":
            expected = int((re.findall(r"# exit code (\d)", block) or ["0"])[0])
            done = subprocess.run(
                ["bash", "-ec", block],
                cwd=tmp_path / "work",
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
            )
            told = " ".join((done.stdout + done.stderr).split())
            assert done.returncode == expected, told
        elif kind == "text":
            for line in block.splitlines() if "finished" in block or "diverged" in block else [block]:
                words = re.escape(" ".join(line.split()))
                found = re.search(NUMBER.sub(lambda _: r"([-+.e\d]+)", words.replace(r"\.", ".")), told)
                assert found, f"{line!r} is not in {told!r}"
                assert [float(x) for x in found.groups()] == pytest.approx(
                    list(map(float, NUMBER.findall(line))), rel=0.02
                )
                shown += 1
    assert shown > 6 and (tmp_path / "work" / "picture.png").stat().st_size > 10_000
