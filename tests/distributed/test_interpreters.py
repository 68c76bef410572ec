"""What only a fresh interpreter shows: what is imported and what is not, and that random draws do not depend on the process."""

import subprocess
import sys
from pathlib import Path

from byzdist.randomness import stream
from tests.support.problem import load_arrays

ROOT = Path(__file__).parents[2]


def test_another_process_draws_the_same_numbers():
    code = "from byzdist.randomness import stream; print(stream(9, 'coin', 3, 4).integers(2**63, size=5).tolist())"
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60
    )
    assert other.stdout.strip() == str(stream(9, "coin", 3, 4).integers(2**63, size=5).tolist())


def test_the_import_alone_does_not_import_torch():
    code = "import byzdist, sys; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_the_quick_commands_need_no_heavy_module():
    heavy = "{'torch', 'sklearn', 'matplotlib', 'scipy', 'numpy'}"
    program = f"""
import contextlib, io, sys, byzdist.cli.main, byzdist.config.schema
with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.suppress(SystemExit):
    byzdist.cli.main.main(["list", "--help"])
assert "--json" in told.getvalue()
print(sorted({heavy} & set(sys.modules)))
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.strip() == "[]"


def test_a_process_does_not_import_a_parser_when_the_cache_is_warm(tmp_path):
    load_arrays({"name": "digits"}, tmp_path)
    code = "import sys; from pathlib import Path; from byzdist.problem import data;"
    code += f"data.load({{'name': 'digits'}}, Path({str(tmp_path)!r})); print('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
