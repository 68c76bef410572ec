"""A picture as part of a page: SVG with real text, in the page's own colour of text."""

import io
import re
from collections.abc import Sequence

from byzdist.reporting.page.html import Html, element
from byzdist.reporting.pictures.history import History
from byzdist.reporting.pictures.style import INK, SETTINGS
from byzdist.reporting.plotting import View, picture

_NOTHING = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # these fields would name other hosts


def inline(runs: Sequence[History], view: View, what: str) -> Html:
    """Return a picture of runs.

    Args:
        runs: what is drawn.
        view: what is shown of them.
        what: says so in words, for those who cannot see it; unique on the page.
    """
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context(SETTINGS | {"svg.fonttype": "none", "svg.hashsalt": what}):  # ids that are unique on the page
        picture(runs, view).savefig(file, format="svg", transparent=True, metadata=_NOTHING)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text, count=2)
    # The page gives it its size, and its text the page's colour.
    text = re.sub(r'<svg([^>]*?) width="([\d.]+)pt"', r'<svg\1 style="--width: \2pt" width="100%"', text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[\d.]+pt"', r"\1", text, count=1)
    return element("div", Html(text.replace(INK, "currentColor")), class_="wide picture", role="img", aria_label=what)
