"""How curves look: colours that the colour-blind can tell apart, and lines and markers that need no colour."""

from collections.abc import Sized
from typing import Any, Final

from byzdist.problem.evaluation import NOTES
from byzdist.problem.task import Better

INK: Final = "#010203"  # black; a page replaces it by its own colour of text
# Okabe and Ito's palette ("Color Universal Design", 2008) without yellow, which is too light for a line.
COLOURS: Final = (INK, "#E69F00", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9")
_LINES: Final = ("-", "--", "-.", ":")
_MARKERS: Final = "osD^vPX*<"  # 9 markers and 4 lines: 36 curves differ without colour
_LONGEST = 120
_TICKS = 2000
SETTINGS: Final[dict[Any, str]] = {
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.framealpha": "0",
}
_AXES: Final = {"rounds": "round", "gradients": "sample gradients", "bytes": "uplink", "seconds": "seconds"}
_METRICS: Final = {"gap": "gap f(x) − f(x*)", "loss": "loss f(x)"}


def look(number: int) -> dict[str, Any]:
    """Return the colour, the line and the marker of a curve."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": _LINES[number % len(_LINES)],
        "marker": _MARKERS[number % len(_MARKERS)],
    }


def plain(text: str) -> str:
    """Return a file's text so that matplotlib draws it literally: no formula, no hidden label, no control character, not too long."""
    text = "".join(c if c.isprintable() else "�" for c in text)
    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 2 :]}"
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def thin(ticks: Sized) -> dict[str, Any]:
    """Return how a strip draws its ticks: as an image within the picture if they are too many for vectors."""
    return {"rasterized": len(ticks) > _TICKS}


def metric_label(y: str, better: dict[str, Better]) -> str:
    """Return the label of a metric's axis."""
    return _METRICS.get(y, y + NOTES[better.get(y, "higher")])


def axis_label(x: str) -> str:
    """Return the label of a horizontal axis."""
    return _AXES[x]
