"""How clients behaved in a run: who was asked, whose replies were missing and why, and who is in quarantine."""

import re
from collections import Counter
from dataclasses import dataclass, field

from byzdist.reporting.pictures.history import History

_QUARANTINE = re.compile(r"client (\d+) is in quarantine after (\d+) offences?, the last: (.*)")


@dataclass
class Conduct:
    """A client's conduct.

    Attributes:
        asked, missing: in how many rounds the client was asked, and in how many its reply could not be used.
        reasons: why, and how often.
        quarantine: why it is in quarantine; "" if it is not.
    """

    client: int
    asked: int = 0
    missing: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    quarantine: str = ""


def conspicuous(run: History) -> list[Conduct]:
    """Return the clients that are in quarantine or whose replies were missing, the most conspicuous first."""
    found: dict[int, Conduct] = {}

    def of(client: int) -> Conduct:
        return found.setdefault(client, Conduct(client))

    for line in run.lines:
        for client in line["cohort"]:
            of(client).asked += 1
        for key, reason in line.get("missing", {}).items():
            if key.isdecimal():
                of(int(key)).missing += 1
                of(int(key)).reasons[str(reason)] += 1
        for text in map(str, line.get("news", [])):
            if match := _QUARANTINE.fullmatch(text):
                of(int(match[1])).quarantine = f"after {match[2]} offences in round {line['round']:g}: {match[3]}"
    those = [conduct for conduct in found.values() if conduct.missing or conduct.quarantine]
    return sorted(those, key=lambda conduct: (not conduct.quarantine, -conduct.missing, conduct.client))
