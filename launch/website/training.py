"""The picture of the tutorial's runs, which are made whenever the site is built: a second or two each."""

import json
import math
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from byzdist.aggregation.types import Floats
from website.svg import Plane, picture, text

ROOT = Path(__file__).parents[2]
RUNS = {  # what the picture calls a run: its overrides, how its line looks, and how far above its end its name is
    "median, noise": (["attack.name=gaussian"], "strong", -9),
    "mean, noise": (
        ["attack.name=gaussian", "aggregation.rule=mean", "aggregation.allow_breakdown=true"],
        "hostile-line",
        0,
    ),
    "no clipping, shift_back": (["method.clip=none"], "hostile-line dashed", 0),
    "clipping, shift_back": ([], "dashed strong", 6),
}
ROUNDS, LOWEST, HIGHEST = 300, -2.0, 4.0  # the gap's powers of ten


@cache
def training() -> str:
    """Return the gap of the tutorial's runs, by round."""
    plane = Plane((34, 8, 400, 210), (0.0, ROUNDS), (LOWEST, HIGHEST))
    drawn = plane.frame()
    for power in range(int(LOWEST), int(HIGHEST) + 1, 2):
        x, y = plane.at((0.0, power))
        drawn += [f'<path d="M{x} {y}h400" class="frame"/>', text(x - 4, y + 4, f"1e{power}", "end")]
    drawn += [text(34, 236, "round 0"), text(434, 236, f"round {ROUNDS}", "end"), text(40, 24, "gap")]
    with TemporaryDirectory() as scratch:
        always = ["transport.name=local", f"rounds={ROUNDS}", "evaluate.every=10", "device=cpu"]
        commands = [
            ["run", "configs/quickstart.yaml", "--out", f"{scratch}/{name}", *always, *overrides]
            for name, (overrides, *_) in RUNS.items()
        ]
        subprocess.run([sys.executable, "-c", _ALL, json.dumps(commands)], cwd=ROOT, check=True, capture_output=True)
        for name, (_, look, up) in RUNS.items():
            points = _gaps(Path(scratch) / name)
            x, y = plane.at(points[-1])
            drawn += [plane.path(points, f"way {look}"), text(x + 5, y + 4 - up, name)]
    return picture(
        600,
        240,
        drawn,
        "The gap of the tutorial's runs: robust ones fall, the mean rises, the one without clipping explodes",
    )


# in one process, because most of a short run's time is its start
_ALL = "import json, sys; from byzdist.cli.main import main; [main(command) for command in json.loads(sys.argv[1])]"


def _gaps(folder: Path) -> list[Floats]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [np.array([line["round"], math.log10(line["gap"])]) for line in lines if "gap" in line]
