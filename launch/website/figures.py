"""The site's pictures, drawn with byzdist's own aggregation whenever the site is built."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from scipy.stats import hypergeom

from byzdist.aggregation import PRE, Aggregator
from byzdist.aggregation.geometry import Geometry
from byzdist.aggregation.points import Points
from byzdist.aggregation.types import Floats
from byzdist.aggregation.vectors import Vectors, Workspace
from byzdist.registry import Spec
from website.svg import Plane, picture, text
from website.training import training

HONEST = np.array(
    [
        [-0.9, 0.5],
        [-0.5, -0.7],
        [-0.35, 0.95],
        [0.1, 0.15],
        [0.2, -0.85],
        [0.45, 0.6],
        [0.75, -0.3],
        [0.95, 0.25],
        [-0.7, -0.2],
    ]
)
HOSTILE = np.array([[0.0, 0.0], [0.06, -0.14]])
TOWARDS = np.array([0.94, 0.34])  # where the hostile vectors go
FARTHEST, WORST = 8.0, 1.6  # the scales of the picture's right half
SHOWN = 3.5  # where the hostile vectors are in the left half
NEEDED: Mapping[str, dict[str, Any]] = {"ctma": {"rule": "coordinate_median"}, "clip": {"threshold": 2.0}}


def is_drawable(name: str, parameters: Mapping[str, Any]) -> bool:
    """Return whether a piece has a default for all its parameters, or an example of them here."""
    return name in NEEDED or all(one.default is not one.empty for one in parameters.values())


def rule_figure(name: str) -> str:
    """Return what two hostile vectors of eleven do to a rule: where its result is, and how far off as they move away."""
    aggregator = Aggregator(Spec(name, NEEDED.get(name, {})))
    f = min(len(HOSTILE), aggregator.max_f(len(HONEST) + len(HOSTILE)))
    distances = np.linspace(0.0, FARTHEST, 161)
    results = np.array([_aggregate(aggregator, _vectors(distance), f) for distance in distances])
    truth, shown = HONEST.mean(axis=0), int(np.abs(distances - SHOWN).argmin())
    plane = Plane((1, 1, 350, 180), (-1.4, 4.2), (-1.2, 1.68))
    error = np.linalg.norm(results - truth, axis=1)
    curve = Plane((390, 12, 220, 150), (0.0, FARTHEST), (0.0, WORST))
    drawn = [
        *plane.frame(),
        plane.path(results[: shown + 1], "way"),
        *(plane.dot(point, 4, "honest") for point in HONEST),
        *(plane.cross(point, "hostile") for point in _vectors(SHOWN)[len(HONEST) :]),
        plane.dot(truth, 7, "target"),
        plane.diamond(results[shown], "result"),
        *curve.frame("how far they are", "error of the result"),
        curve.path(np.stack([distances, error], axis=1)[error <= WORST], "way strong"),
    ]
    return picture(630, 182, drawn, f"{name}: the result beside two hostile vectors, and its error as they move away")


def step_figure(name: str) -> str:
    """Return the vectors before a step, and joined to them what it makes of them."""
    rows = _vectors(SHOWN)
    points = Points(Geometry(Vectors(torch.tensor(rows), Workspace())))
    after = PRE.bind(Spec(name, NEEDED.get(name, {})), "figure")(points, len(HOSTILE), np.random.default_rng(0))
    mix = np.eye(len(rows)) if after.mix is None else np.asarray(after.mix)
    placed = mix @ rows * (after.unit / points.unit)
    plane = Plane((1, 1, 350, 180), (-1.4, 4.2), (-1.2, 1.68))
    own = [(i, i) for i in range(len(rows))] if len(placed) == len(rows) else np.argwhere(mix > 0).tolist()
    drawn = [
        *plane.frame(),
        *(plane.path([rows[i], placed[j]], "way") for j, i in own),
        *(plane.dot(point, 4, "honest") for point in HONEST),
        *(plane.cross(point, "hostile") for point in rows[len(HONEST) :]),
        *(plane.diamond(point, "result") for point in placed),
    ]
    return picture(352, 182, drawn, f"{name}: the vectors before the step, and after it")


def rules_legend() -> str:
    """Return the line that explains the marks of the pictures."""
    marks = {
        "honest vectors": '<circle cx="8" cy="8" r="4" class="honest"/>',
        "hostile vectors": '<path d="M4 4l8 8m0 -8l-8 8" class="hostile"/>',
        "mean of the honest": '<circle cx="8" cy="8" r="7" class="target"/>',
        "result": '<path d="M8 2l6 6l-6 6l-6 -6z" class="result"/>',
    }
    items = (
        f'<span><svg class="mark" viewBox="0 0 16 16">{mark}</svg> {words}</span>' for words, mark in marks.items()
    )
    return f'<p class="legend">{"".join(items)}</p>'


def descent() -> str:
    """Return gradient descent under a mean and under a median; one gradient of five is hostile."""
    plane = Plane((1, 1, 460, 220), (-3.5, 4.0), (-0.8, 2.8))
    start, minimum = np.array([-3.0, 1.8]), np.zeros(2)
    drawn = [*plane.frame(), plane.dot(minimum, 8, "target"), plane.dot(start, 4, "honest")]
    for rule, f, kind in (("mean", 0, "hostile"), ("coordinate_median", 1, "result")):
        generator, x, way = np.random.default_rng(1), start, [start]
        for _ in range(60):
            gradients = x + 0.4 * generator.standard_normal((5, 2))
            gradients[4] = [-12.0, -8.0]
            x = x - 0.1 * _aggregate(Aggregator(rule), gradients, f)
            way.append(x)
        across, down = plane.at(x)
        drawn += [plane.path(way, f"way {kind}-line"), plane.diamond(x, kind), text(across + 10, down - 8, rule)]
    (x0, y0), (x1, y1) = plane.at(start), plane.at(minimum)
    drawn += [text(x0, y0 - 9, "start", "middle"), text(x1, y1 + 24, "minimum", "middle")]
    return picture(
        462, 222, drawn, "Descent with one hostile gradient of five: the mean is pulled away, the median is not"
    )


def majority() -> str:
    """Return how probable a Byzantine majority of a cohort is, by the cohort's size, for shares of 100 clients."""
    plane = Plane((34, 1, 400, 210), (1.0, 31.0), (-6.0, 0.0))
    drawn = plane.frame()
    for power in range(-5, 0):
        x, y = plane.at((1.0, power))
        drawn += [f'<path d="M{x} {y}h400" class="frame"/>', text(x - 4, y + 4, f"1e{power}", "end")]
    for size in range(5, 31, 5):
        x, y = plane.at((size, -6.0))
        drawn.append(text(x, y + 15, str(size), "middle"))
    for share, kind in ((10, "way"), (20, "result-line"), (30, "honest-line"), (40, "hostile-line")):
        sizes = np.arange(2, 31, 2)
        curve = np.stack([sizes, np.log10(hypergeom.sf(sizes // 2, 100, share, sizes) + 1e-300)], axis=1)
        curve = curve[curve[:, 1] > -6.0]
        x, y = plane.at(curve[-1])
        drawn += [plane.path(curve, f"way {kind}"), *(plane.dot(point, 2.5, f"{kind}-dot") for point in curve)]
        drawn.append(text(x + 6, y - 2, f"{share} of 100"))
    drawn.append(text(234, 242, "clients in the cohort, even numbers", "middle"))
    return picture(
        500, 248, drawn, "The probability that Byzantine clients are a majority of the cohort falls with its size"
    )


PICTURES: Mapping[str, Callable[[], str]] = {"descent": descent, "majority": majority, "training": training}


def _vectors(distance: float) -> Floats:
    """Return the honest vectors, then the hostile ones, that far away."""
    return np.concatenate([HONEST, HOSTILE + distance * TOWARDS])


def _aggregate(aggregator: Aggregator, rows: Floats, f: int) -> Floats:
    return np.asarray(aggregator(torch.tensor(rows), f=f).vector)
