"""Every attack on the shipped settings and harder ones, as the tables of docs/robustness.md.

``python -m tests.benchmarks.robustness RESULTS [--settings NAME ...] [--attacks NAME ...] [--seeds N] [--data FOLDER]`` runs what
RESULTS, a file of JSON lines, does not hold yet, and prints all that it holds in Markdown. A run takes 3 to 30 seconds, all of them
on one core an hour or two. Attacks are those of ``byzdist list`` and those of tests/support/attacks.py, which know the clipping level. Runs
are in one process (transport.name=local), but for faults: those are real, with a worker process a client, and one seed.
FOLDER holds a9a.gz and mnist/, which are not part of this package (by default BYZDIST_DATA or ../shared/data).
"""

import argparse
import gc
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any

from byzdist.attacks import ATTACKS
from byzdist.config.reading import load
from byzdist.errors import RunError
from byzdist.runtime.alone import run_alone
from byzdist.runtime.command import RunCommand
from tests.support.attacks import HOSTILE

ROOT = Path(__file__).resolve().parents[2]
# Faults, which need real processes; with such times a run of 3,000 rounds is a matter of minutes.
FAULTS = {
    "crash": ["attack.probability=0.02"],
    "hang": [],
    "slow": ["attack.probability=0.02", "attack.seconds=2.0"],
    "oversize": [],
    "short": [],
    "garbage": [],
    "replay": [],
}
PATIENCE = ["transport.deadline=1.0", "transport.join_timeout=20.0"]


@dataclass(frozen=True)
class Setting:
    """A configuration of this repository with changes; ``measure`` is what its table shows; ``faults``: whether these are tried, too."""

    path: str
    changes: list[str] = field(default_factory=list)
    measure: str = "gap"
    data: str = ""
    faults: bool = False


def _settings() -> dict[str, Setting]:
    quickstart, fig1, mnist = (
        "configs/quickstart.yaml",
        "configs/paper/fig1_sound.yaml",
        "configs/paper/mnist_cnn_clip.yaml",
    )
    mlp = "model={name: mlp}"
    return {
        "quickstart": Setting(quickstart, faults=True),
        "compose": Setting("configs/cluster/compose.yaml", faults=True),
        "quickstart, half available": Setting(quickstart, ["clients.availability={name: bernoulli, q: 0.5}"]),
        "fig1_sound": Setting(fig1, data="a9a.gz"),
        "fig1_clip_1": Setting("configs/paper/fig1_clip_1.yaml", data="a9a.gz"),
        "fig1_sound, Dirichlet(1)": Setting(fig1, ["data.split={name: dirichlet, alpha: 1.0}"], data="a9a.gz"),
        "mnist, iid": Setting(mnist, [mlp, "data.split=iid"], "accuracy", "mnist"),
        "mnist, Dirichlet(1)": Setting(mnist, [mlp, "data.split={name: dirichlet, alpha: 1.0}"], "accuracy", "mnist"),
    }


SETTINGS = _settings()


def outcome(
    setting: Setting, attack: str, seed: int, changes: Sequence[str] = (), data: Path | None = None
) -> dict[str, float]:
    """Run a setting under an attack; return loss, accuracy and gap at its end, an empty mapping where it diverged."""
    overrides = [*setting.changes, f"seed={seed}", "evaluate.every=1000000", *changes]
    if setting.data:
        assert data is not None
        overrides.append(f"data.path={data / setting.data}")
    if attack != "as shipped":
        overrides.append(f"attack={{name: {json.dumps(attack)}}}")
    path, out = str(ROOT / setting.path), StringIO()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        if attack in FAULTS:
            _with_processes(path, [*overrides, *FAULTS[attack], *PATIENCE], run)
        else:
            try:
                with redirect_stdout(out), redirect_stderr(out):
                    run_alone(RunCommand(path, [*overrides, "transport.name=local"], run))
            except RunError:
                return {}
        gc.collect()  # a run is a cycle of references, which may wait long for a collector, and holds its data
        last = json.loads((run / "summary.json").read_text())
    if last["status"] != "finished":
        raise SystemExit("interrupted")
    return {key: last[key] for key in ("loss", "gap", "accuracy") if key in last}


def _with_processes(path: str, overrides: Sequence[str], run: Path) -> None:
    """Run a worker process for each client."""
    clients = load(path, overrides).clients.count
    command = [sys.executable, "-m", "byzdist", "run", path, "--workers", str(clients), "--out", str(run)]
    done = subprocess.run([*command, *overrides], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--attacks", nargs="*", default=[*ATTACKS, *HOSTILE])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=os.environ.get("BYZDIST_DATA", ROOT.parent / "shared" / "data"))
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    held = list(read(arguments.results))
    settings = {name: SETTINGS[name] for name in arguments.settings}
    for name in [name for name, setting in settings.items() if not (arguments.data / setting.data).exists()]:
        print(f"{name}: left out, there is no {arguments.data / settings.pop(name).data}", file=sys.stderr)
    known = {(line["setting"], line["attack"], line["seed"]) for line in held}
    for seed, name, attack in product(range(arguments.seeds), settings, arguments.attacks):
        skipped = attack in FAULTS and (seed > 0 or not settings[name].faults)
        if skipped or (name, attack, seed) in known:
            continue
        found = outcome(settings[name], attack, seed, data=arguments.data)
        held.append({"setting": name, "attack": attack, "seed": seed, **found})
        with arguments.results.open("a") as file:
            file.write(json.dumps(held[-1]) + "\n")
        print(held[-1], file=sys.stderr)
    print(markdown(held))


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the results that a file holds."""
    if path.exists():
        yield from map(json.loads, path.read_text().splitlines())


def markdown(lines: Sequence[dict[str, Any]]) -> str:
    """Return a table of the worst seed, by attack and setting, for those settings that there are results of."""
    names = [name for name in SETTINGS if any(line["setting"] == name for line in lines)]
    rows = [["attack", *names], ["---"] * (1 + len(names))]
    for attack in [*ATTACKS, *HOSTILE]:
        cells = [
            _cell(SETTINGS[name], [line for line in lines if (line["setting"], line["attack"]) == (name, attack)])
            for name in names
        ]
        if any(cells):
            rows.append([attack.removeprefix("tests.support.attacks:"), *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(setting: Setting, lines: Sequence[dict[str, Any]]) -> str:
    if not lines:
        return ""
    if any(setting.measure not in line for line in lines):
        return "diverges"
    values = [line[setting.measure] for line in lines]
    return f"{max(values):.1e}" if setting.measure == "gap" else f"{min(values):.3f}"


if __name__ == "__main__":
    main()
