"""The examples of docs/examples work unchanged."""

import json
import os
import re
import runpy
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

import byzdist
from tests.support.harness import Job, free_port

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def own_lines(path: Path) -> int:
    """Count the lines of code in a file as docs/comparison does."""
    lines: int = runpy.run_path(str(EXAMPLES.parent / "comparison" / "count.py"))["lines"](path.read_text())
    return lines


def test_own_pieces_in_one_file_train_alone_and_with_processes_to_the_same_bits(tmp_path: Path) -> None:
    weights = []
    for workers in ("0", "2"):
        with Job([sys.executable, str(EXAMPLES / "own_pieces.py"), workers], cwd=tmp_path) as job:
            assert job.wait(90) == 0, job.output
            job.assert_clean()
        assert "finished" in job.output
    for folder in (tmp_path / "runs").iterdir():
        run = byzdist.load_run(folder)
        assert run.summary["accuracy"] > 0.8 and run.summary["byzantine_majorities"] > 0
        weights.append((folder / "model.safetensors").read_bytes())
    assert len(weights) == 2 and len(set(weights)) == 1
    assert own_lines(EXAMPLES / "own_pieces.py") <= 40


def test_a_script_under_torchrun_ends_when_it_is_good_enough(tmp_path: Path) -> None:
    torchrun = [
        str(Path(sys.executable).with_name("torchrun")),
        "--master-addr",
        "127.0.0.1",
        "--master-port",
        str(free_port()),
    ]
    with Job([*torchrun, "--nproc-per-node", "3", str(EXAMPLES / "under_torchrun.py")], cwd=tmp_path) as job:
        assert job.wait(90) == 0, job.output
        job.assert_clean()
    (folder,) = (tmp_path / "runs").iterdir()
    summary = byzdist.load_run(folder).summary
    assert summary["status"] == "stopped" and summary["accuracy"] > 0.9 and summary["rounds"] < 200


def test_three_hospitals_train_on_data_that_only_they_read(tmp_path: Path) -> None:
    X, y = load_breast_cancer(return_X_y=True)
    X = (X - X.mean(0)) / X.std(0)
    for client in range(3):
        host = tmp_path / f"host{client}"
        host.mkdir(mode=0o700)
        np.savez(host / f"client-{client}.npz", X=X[client::3], y=y[client::3])
        (host / "local.yaml").write_text(f"data.path: {host}\n")
    byzdist_ = [sys.executable, "-m", "byzdist"]
    with Job([*byzdist_, "keys", "--workers", "3", "--out", "keys"], cwd=tmp_path) as job:
        assert job.wait(60) == 0, job.output
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": "4",
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }
    config = str(EXAMPLES / "private" / "config.yaml")
    with ExitStack() as stack:
        ranks = []
        for rank in range(4):
            own = ["--out", "run"] if rank == 0 else ["--local", str(tmp_path / f"host{rank - 1}" / "local.yaml")]
            key = (
                {"BYZDIST_KEY_FILE": f"keys/workers/worker-{rank}.key"}
                if rank
                else {"BYZDIST_SECRET_FILE": "keys/secret"}
            )
            command = [*byzdist_, "run", config, *own]
            ranks.append(stack.enter_context(Job(command, env={**common, **key, "RANK": str(rank)}, cwd=tmp_path)))
        for job in ranks:
            assert job.wait(120) == 0, job.output
    run = byzdist.load_run(tmp_path / "run")
    assert run.summary["status"] == "finished" and run.summary["claimed"]["accuracy"]["median"] > 0.9
    written = "".join(
        path.read_text()
        for path in (tmp_path / "run").glob("*.*")
        if path.suffix in (".yaml", ".json", ".jsonl", ".txt")
    )
    assert not re.search(r"host[12]", written), "what a host's file says stays there"


def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path: Path) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    text = (EXAMPLES / "notebook.ipynb").read_text()
    assert all(not cell.get("outputs") for cell in json.loads(text)["cells"]), "it is kept without outputs"
    notebook = nbformat.reads(text, 4)
    nbclient.NotebookClient(
        notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    shown = [
        output["data"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "execute_result"
    ]
    assert any("<table>" in data.get("text/html", "") and "data:image/png" in data["text/html"] for data in shown)
    found = re.search(r"test accuracy (0\.\d+)", printed)
    assert found is not None and float(found[1]) > 0.8, printed
    assert re.search(r"stopped after \d+ rounds", printed) and re.search(
        r"[1-9]\d* of 301 rounds had a hostile majority", printed
    )


def test_the_lines_of_the_comparison_are_counted() -> None:
    folder = EXAMPLES.parent / "comparison"
    rows = re.findall(r"^\| \S+(?: [\d.]+)? \| (.*?) \| (\d+) \|", (folder / "README.md").read_text(), re.MULTILINE)
    told = {tuple(re.findall(r"\((\w+\.py)\)", programs)): int(lines) for programs, lines in rows}
    assert len(told) == 4 and {name for names in told for name in names} == {
        path.name for path in folder.glob("with_*.py")
    }
    assert {names: sum(own_lines(folder / name) for name in names) for names in told} == told


def test_our_program_of_the_comparison_runs(tmp_path: Path) -> None:
    with Job([sys.executable, str(EXAMPLES.parent / "comparison" / "with_byzdist.py")], cwd=tmp_path) as job:
        assert job.wait(90) == 0, job.output
    assert float(job.output.split()[-1]) > 0.85
