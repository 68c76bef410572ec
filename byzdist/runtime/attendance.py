"""Which clients reply: who stops and who replies again, who must start afresh, and who is known to be Byzantine."""

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

from byzdist.rounds import Replies, Round
from byzdist.runtime.decoding import NOT_FINITE

log = logging.getLogger(__name__)
_NAMED = 20  # how many clients a line of the log names at most


class Attendance:
    """Keeps account of the clients from round to round.

    Args:
        quarantined: returns the clients in quarantine.
        remember: whether honest clients remember something, which they can lose, of a full (True) or of a sampled round (False).
    """

    def __init__(self, quarantined: Callable[[], set[int]], remember: Mapping[bool, bool]) -> None:
        self._quarantined, self._remember = quarantined, remember
        self._away: set[int] = set()  # clients whose last reply is missing
        self._known: set[int] = set()  # clients that remember something of a round in which they replied
        self._stale: set[int] = set()  # clients that were asked since the server last took a message of theirs

    def note(self, round_: Round, replies: Replies, missing: Mapping[int, str]) -> list[str]:
        """Take note of who replied in a round and who is ``missing`` and why; return the events that its record names."""
        self._note_absence(round_, missing)
        return self._note_memories(replies, self._remember[round_.full])

    def _note_absence(self, round_: Round, missing: Mapping[int, str]) -> None:
        """Log each client that stopped replying, or replies again."""
        absent: dict[str, list[str]] = {}
        for client, reason in missing.items():
            if client not in self._away:
                self._away.add(client)
                absent.setdefault(reason, []).append(str(client))
        for reason, clients in absent.items():
            more = f" and {len(clients) - _NAMED} more" if len(clients) > _NAMED else ""
            log.warning("no reply from client %s%s: %s", ", ".join(clients[:_NAMED]), more, reason)
        if self._away:
            for client in self._away.intersection(round_.cohort.tolist()) - missing.keys():
                self._away.remove(client)
                log.info("client %d replies again", client)

    def _note_memories(self, replies: Replies, remember: bool) -> list[str]:
        """Log and return whose memory was lost; ``remember``: whether those that replied remember something now."""
        events = []
        for client in sorted(self._known.intersection(replies.afresh)):
            events.append(f"client {client} lost what it remembered and starts afresh")
            log.warning("%s", events[-1])
        self._known.difference_update(replies.afresh)
        if remember:
            self._known.update(replies.payloads)
        return events

    def ask(self, round_: Round) -> frozenset[int]:
        """Return who of a cohort must start afresh, because its copy may differ from the server's; see `Method.keeps_copies`.

        The whole cohort counts among them until `note_taken` says otherwise.
        """
        cohort = round_.cohort.tolist()
        afresh = frozenset(self._stale.intersection(cohort))
        self._stale.update(cohort)
        return afresh

    def note_taken(self, afresh: Collection[int], replies: Replies, taken: Collection[int]) -> list[str]:
        """Take note of whose messages the server has taken; return the events about those that were told to start ``afresh``."""
        self._stale.difference_update(taken)
        return [
            f"client {client} starts afresh, because the server did not take its last message"
            for client in taken
            if client in afresh and client not in replies.afresh
        ]

    def exposed(self, replying: Collection[int], missing: Mapping[int, str]) -> int:
        """Return how many clients are known to be Byzantine and did not reply."""
        known = self._quarantined()
        known |= {client for client, reason in missing.items() if reason == NOT_FINITE}
        return len(known.difference(replying))

    def state(self) -> dict[str, list[int]]:
        """Return what a checkpoint keeps, as JSON: the clients that remember something, and those that must start afresh."""
        return {"known": sorted(self._known), "stale": sorted(self._stale)}

    def resume(self, facts: Mapping[str, Any]) -> None:
        """Restore what `state` returned; checkpoints of earlier versions have only the first."""
        self._known, self._stale = set(facts["known"]), set(facts.get("stale", []))
