"""The names of torch that its documentation does not promise: used in one file only, and all of them exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import byzdist
from byzdist import torch_private

PACKAGE = Path(byzdist.__file__).parent
PRIVATE = re.compile(r"^\s*(?:from|import) +torch(?:\.\w+)*\._|\btorch(?:\.\w+)*\._[a-zA-Z]", re.MULTILINE)


def test_private_names_of_torch_are_in_one_file():
    found = [
        str(path.relative_to(PACKAGE)) for path in sorted(PACKAGE.rglob("*.py")) if PRIVATE.search(path.read_text())
    ]
    assert found == ["torch_private.py"], "import such names from byzdist.torch_private"


def test_this_torch_has_them_all():
    assert torch_private.gone() == []


@pytest.mark.parametrize("owner, name", [(o.__name__, n) for o, names in torch_private.MEMBERS.items() for n in names])
def test_each_is_there(owner, name):
    assert hasattr(getattr(torch_private, owner), name), f"{owner}.{name} is gone from this release of torch"


def test_what_is_gone_is_named(monkeypatch):
    monkeypatch.setitem(torch_private.MEMBERS, torch_private.Work, ("wait", "hope"))
    assert torch_private.gone() == ["Work.hope"]


def test_a_torch_without_a_name_is_refused_by_that_name_in_one_line():
    program = (
        "import sys, torch._C._distributed_c10d as private; del private.TCPStore; sys.argv = ['byzdist', 'doctor']; "
        "from byzdist.cli.main import main; sys.exit(main())"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert answer.returncode == 2
    assert re.fullmatch(
        r"byzdist: torch \S+ does not fit: cannot import name 'TCPStore' .*byzdist is tried with torch<\S+\n",
        answer.stderr,
    ), answer.stderr
