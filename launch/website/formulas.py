"""Formulas in LaTeX as SVG, drawn by matplotlib: they look the same on every machine, and need neither a script nor a font."""

import re
from functools import cache
from html import escape

import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath

_SIZE = 100  # units for one em, so that whole numbers are exact enough
_LETTERS = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}
_FONT = FontProperties(family="STIXGeneral", math_fontfamily="stix")
_NAMES = {
    "lVert": "Vert",
    "rVert": "Vert",
    "operatorname": "mathrm",
    "dots": "ldots",
    "le": "leq",
}  # matplotlib's names for them


@cache
def drawn(latex: str, display: bool) -> str:
    """Return a formula as an SVG of the text's size and colour, on the text's baseline.

    Raises:
        ValueError: what matplotlib says of LaTeX that it does not know.
    """
    known = re.sub(r"\\([a-zA-Z]+)", lambda found: f"\\{_NAMES.get(found[1], found[1])}", " ".join(latex.split()))
    path = TextPath((0, 0), f"${known}$", size=_SIZE, prop=_FONT)
    (left, low), (right, high) = np.array(path.get_extents().get_points()) + [[-4], [4]]
    width, height = right - left, high - low
    shape = "".join(
        "Z"
        if code == Path.CLOSEPOLY
        else _LETTERS[code] + " ".join(f"{x:.0f} {-y:.0f}" for x, y in points.reshape(-1, 2))
        for points, code in path.iter_segments(curves=True, simplify=False)
    )
    style = f"width:{width / _SIZE:.2f}em;height:{height / _SIZE:.2f}em"
    style += "" if display else f";vertical-align:{low / _SIZE:.2f}em"
    picture = (
        f'<svg class="formula" style="{style}" viewBox="{left:.0f} {-high:.0f} {width:.0f} {height:.0f}" role="img" '
        f'aria-label="{escape(latex)}"><path d="{shape}"/></svg>'
    )
    return f'<div class="formula">{picture}</div>' if display else picture
