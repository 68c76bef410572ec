"""`byzdist report`: a run or a sweep as one page of HTML."""

from importlib.resources import files
from pathlib import Path

from byzdist.errors import ConfigError
from byzdist.host.files import write_text
from byzdist.reporting.page.html import Html, element, join
from byzdist.reporting.page.one_run import run_page
from byzdist.reporting.page.sweep import sweep_page
from byzdist.reporting.pictures.history import histories
from byzdist.reporting.plotting import check_installed

# A page made from the files of others cannot load anything, whatever they say.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def report(folder: Path) -> str:
    """Return the page on the run in a folder, or on the runs below it.

    Raises:
        ConfigError: for a folder without runs, or whose files are not what a run writes, or without matplotlib.
    """
    check_installed("report")
    runs = histories([folder])
    single = len(runs) == 1
    title = runs[0].name if single else folder.resolve().name
    what = str(runs[0].folder) if single else f"{len(runs)} runs in {folder}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{title}: byzdist"),
        element("style", _own("page.css")),
    )
    sections = run_page(runs[0]) if single else sweep_page(runs, folder)
    top = element("header", element("h1", title), element("p", what))
    body = element("body", top, element("main", *sections), element("script", _own("page.js")))
    return join(Html("<!doctype html>\n"), element("html", head, body, lang="en")) + "\n"


def write_report(folder: Path, out: Path | None) -> Path:
    """Write the page, by default as report.html into the folder; return where it is.

    Raises:
        ConfigError: as `report`, or if it cannot be written.
    """
    page, out = report(folder), out or folder / "report.html"
    try:
        write_text(out, page, durable=False)
    except OSError as error:
        raise ConfigError(f"-o: cannot write the report {str(out)!r}: {error.strerror or error}.") from error
    return out


def _own(name: str) -> Html:
    return Html((files("byzdist.reporting.page") / name).read_text("utf-8"))
