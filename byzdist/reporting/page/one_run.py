"""The report on one run."""

import shlex
from collections.abc import Sequence

from byzdist.reporting.page.conduct import conspicuous
from byzdist.reporting.page.html import Cell, Html, element, facts, section, table
from byzdist.reporting.page.svg import inline
from byzdist.reporting.page.words import count, number, size
from byzdist.reporting.pictures.heat import last_value
from byzdist.reporting.pictures.history import History
from byzdist.reporting.pictures.settings import said
from byzdist.reporting.plotting import View
from byzdist.storage.folder import CONFIG

_EVENTS, _CLIENTS = 200, 50  # rows that a table shows at most
_PIECES = (
    "method",
    "aggregation.rule",
    "aggregation.pre",
    "attack",
    "compression",
    "data",
    "data.split",
    "model",
    "transport",
)
_VERSIONS = ("byzdist", "torch", "python", "device", "workers", "threads", "parameters")


def run_page(run: History) -> list[Html]:
    """Return the sections of the report on a run."""
    sections = [ending([run]), section("Key figures", facts(_figures(run)))]
    if run.is_evaluated:
        sections.append(section("Curves", inline([run], View(), f"curves of {run.name}")))
    else:
        sections.append(section("Curves", element("p", "Nothing has been evaluated yet.")))
    if run.lines:
        what = element(
            "p",
            "Cohort and Byzantine share are those of sampled rounds. A dotted line marks half of the cohort.",
        )
        sections.append(section("Round by round", inline([run], View(timeline=True), f"timeline of {run.name}"), what))
    sections += [_clients(run), _events(run), section("What was run", facts(_pieces(run)))]
    sections.append(section("All settings", all_settings(run), folded=True))
    return [*sections, repeat([run]), versions([run])]


def ending(runs: Sequence[History]) -> Html:
    """Return how many runs ended in which way, and why some did not finish."""
    statuses = [run.status for run in runs]
    badges = [
        element(
            "span",
            status if len(runs) == 1 else f"{statuses.count(status)} {status}",
            class_="badge",
            data_status=status,
        )
        for status in dict.fromkeys(statuses)
    ]
    told = []
    reasons = [
        (run.folder.name, str(run.summary["reason"])) for run in runs if run.summary and run.summary.get("reason")
    ]
    if len(runs) == 1:
        told += [element("p", reason) for _, reason in reasons]
    elif reasons:
        told.append(element("details", element("summary", "Why"), table(("run", "reason"), reasons)))
    if "unfinished" in statuses:
        told.append(element("p", "An unfinished run goes on, or was killed; the report shows how far it had come."))
    return section("How it ended", element("p", *badges), *told)


def _figures(run: History) -> list[tuple[str, str]]:
    pairs = []
    for key in ("loss", "gap", "grad_norm", *run.metrics):
        if (value := last_value(run, key)) is not None:
            found = run.measured(key)
            note = " (claimed)" if found is not None and found.spread is not None else ""
            pairs.append((f"last {key.replace('_', ' ')}{note}", number(value).text))
    asked = sum(len(line["cohort"]) for line in run.lines)
    missing = sum(len(line.get("missing", {})) for line in run.lines)
    return [
        *pairs,
        ("last round", f"{run.rounds[-1] if run.lines else 0:g} of {said(run.settings.get('rounds'))}"),
        ("Byzantine majorities", f"{len(run.majorities)} of {len(run.lines)} rounds"),
        ("missing replies", f"{count(missing).text} of {count(asked).text}"),
        ("uplink", size(sum(line["bytes_up"] for line in run.lines)).text),
        ("time in rounds", f"{number(seconds(run)).text} s"),
    ]


def seconds(run: History) -> float | None:
    """Return how long a run's rounds took; None if its metrics do not say."""
    taken = [line.get("seconds", {}).get("total") for line in run.lines]
    return None if None in taken else float(sum(taken))


def _clients(run: History) -> Html:
    found = conspicuous(run)
    if not found:
        return section("Who looks hostile", element("p", "No client is in quarantine, and no reply was missing."))
    total, bad = run.settings.get("clients.count"), run.settings.get("clients.byzantine")
    honest = total - bad if isinstance(total, int) and isinstance(bad, int) else None
    rows: list[list[str | Cell]] = []
    for conduct in found[:_CLIENTS]:
        why = "; ".join(f"{reason} ({times} times)" for reason, times in conduct.reasons.most_common(3))
        declared = "" if honest is None else "Byzantine" if conduct.client >= honest else "honest"
        missing = [count(conduct.asked), count(conduct.missing)]
        rows.append([count(conduct.client), declared, *missing, conduct.quarantine, why])
    head = ("client", "configured as", "asked", "missing", "quarantine", "why replies were missing")
    return section("Who looks hostile", table(head, rows, sortable=True), _rest(len(found), _CLIENTS))


def _rest(found: int, shown: int) -> Html:
    return element("p", f"{shown} of {found} are shown.") if found > shown else Html()


def _events(run: History) -> Html:
    events = [(line["round"], str(text)) for line in run.lines for text in line.get("news", [])]
    events += [(line["round"], f"not trusted: {line['untrusted']}") for line in run.lines if "untrusted" in line]
    if not events:
        return section("Events", element("p", "Nothing happened to clients or workers."))
    rows = [(count(round_), text) for round_, text in sorted(events)[:_EVENTS]]
    return section("Events", table(("round", "event"), rows), _rest(len(events), _EVENTS))


def _pieces(run: History) -> list[tuple[str, str]]:
    def at(key: str) -> object:
        tree: object = run.tree
        for part in key.split("."):
            tree = tree.get(part) if isinstance(tree, dict) else None
        return tree

    clients = (
        f"{said(run.settings.get('clients.count'))}, {said(run.settings.get('clients.byzantine', 0))} of them Byzantine"
    )
    pairs = [(key, name) for key in _PIECES if (name := _name(at(key)))]
    return [("clients", clients), *pairs, ("seed", said(run.settings.get("seed")))]


def _name(piece: object) -> str:
    if isinstance(piece, list):
        return " + ".join(map(_name, piece))
    return said(piece.get("name")) if isinstance(piece, dict) else said(piece) if piece else ""


def all_settings(run: History) -> Html:
    """Return the whole configuration of a run."""
    return table(("key", "value"), [(key, said(value)) for key, value in run.settings.items()])


def repeat(runs: Sequence[History]) -> Html:
    """Return the commands that run the same again."""
    commands = [f"byzdist run {shlex.quote(str(run.folder / CONFIG))} --out NEW_FOLDER" for run in runs]
    return section("To repeat it", element("pre", "\n".join(commands)), folded=len(runs) > 1)


def versions(runs: Sequence[History]) -> Html:
    """Return the versions and the machine of the runs."""
    pairs = []
    for key in _VERSIONS:
        seen = dict.fromkeys(said(run.described[key]) for run in runs if key in run.described)
        if seen:
            pairs.append((key, ", ".join(seen)))
    hosts = [run.described.get("host") for run in runs]
    seen = dict.fromkeys(said(host.get("system")) for host in hosts if isinstance(host, dict))
    return section("Made with", facts([*pairs, *([("system", ", ".join(seen))] if seen else [])]))
