"""Small pictures as SVG whose colours are the page's own (website/site.css), so that they suit its light and its dark form."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from byzdist.aggregation.types import Floats


@dataclass(frozen=True)
class Plane:
    """A rectangle of a picture that shows a part of the plane.

    Attributes:
        box: its left, top, width and height in the picture.
        x: the first and the last abscissa that it shows.
        y: the same for the ordinate, which grows upwards.
    """

    box: tuple[float, float, float, float]
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, point: Sequence[float] | Floats) -> tuple[float, float]:
        """Return where a point is in the picture; one outside is moved to the edge."""
        left, top, width, height = self.box
        across = (min(max(float(point[0]), self.x[0]), self.x[1]) - self.x[0]) / (self.x[1] - self.x[0])
        up = (min(max(float(point[1]), self.y[0]), self.y[1]) - self.y[0]) / (self.y[1] - self.y[0])
        return round(left + across * width, 1), round(top + (1 - up) * height, 1)

    def dot(self, point: Floats, radius: float, kind: str) -> str:
        """Return a circle."""
        x, y = self.at(point)
        return f'<circle cx="{x}" cy="{y}" r="{radius}" class="{kind}"/>'

    def cross(self, point: Floats, kind: str) -> str:
        """Return a cross."""
        x, y = self.at(point)
        return f'<path d="M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8" class="{kind}"/>'

    def diamond(self, point: Floats, kind: str) -> str:
        """Return a square on its corner."""
        x, y = self.at(point)
        return f'<path d="M{x} {y - 6:.1f}l6 6l-6 6l-6 -6z" class="{kind}"/>'

    def path(self, points: Iterable[Floats], kind: str) -> str:
        """Return a line through the points."""
        places = [self.at(point) for point in points]
        return f'<path d="M{" L".join(f"{x} {y}" for x, y in places)}" class="{kind}"/>'

    def frame(self, across: str = "", up: str = "") -> list[str]:
        """Return the border, with the ends of both scales and their names if they have any."""
        left, top, width, height = self.box
        drawn = [f'<rect x="{left}" y="{top}" width="{width}" height="{height}" class="frame"/>']
        if across:
            drawn += [
                text(left, top + height + 14, f"{self.x[0]:g}", "middle"),
                text(left + width, top + height + 14, f"{self.x[1]:g}", "middle"),
                text(left + width / 2, top + height + 14, across, "middle"),
                text(left - 5, top + height, f"{self.y[0]:g}", "end"),
                text(left - 5, top + 10, f"{self.y[1]:g}", "end"),
                text(left + 6, top + 13, up),
            ]
        return drawn


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    """Return a label; ``anchor`` is start, middle or end."""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'


def picture(width: int, height: int, drawn: Iterable[str], title: str) -> str:
    """Return the whole picture, with a title for who cannot see it."""
    return (
        f'<svg class="figure" viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img" data-search-exclude '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>{"".join(drawn)}</svg>'
    )
