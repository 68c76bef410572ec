"""Which clients reply: who stops and who replies again, whose memory was lost, and who is known to be Byzantine."""

import logging
from collections.abc import Callable, Collection, Mapping

from byzdist.rounds import Replies, Round
from byzdist.runtime.decoding import NOT_FINITE

log = logging.getLogger(__name__)
_NAMED = 20  # how many clients a line of the log names at most


class Attendance:
    """Keeps account of the clients from round to round.

    Args:
        quarantined: returns the clients in quarantine.
        remember: whether honest clients remember something, which they can lose.
    """

    def __init__(self, quarantined: Callable[[], set[int]], remember: bool) -> None:
        self._quarantined, self._remember = quarantined, remember
        self._away: set[int] = set()  # clients whose last reply is missing
        self._known: set[int] = set()  # clients that have replied, and so remember something

    def note(self, round_: Round, replies: Replies, missing: Mapping[int, str]) -> list[str]:
        """Take note of who replied in a round and who is ``missing`` and why; return the events that its record names."""
        self._note_absence(round_, missing)
        return self._note_memories(replies) if self._remember else []

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

    def _note_memories(self, replies: Replies) -> list[str]:
        """Log and return whose memory was lost."""
        events = []
        for client in sorted(self._known.intersection(replies.afresh)):
            events.append(f"client {client} lost what it remembered and starts afresh")
            log.warning("%s", events[-1])
        self._known.update(replies.payloads)
        return events

    def exposed(self, replying: Collection[int], missing: Mapping[int, str]) -> int:
        """Return how many clients are known to be Byzantine and did not reply."""
        known = self._quarantined()
        known |= {client for client, reason in missing.items() if reason == NOT_FINITE}
        return len(known.difference(replying))

    def state(self) -> list[int]:
        """Return what a checkpoint keeps, as JSON: the clients that remember something."""
        return sorted(self._known)

    def resume(self, state: list[int]) -> None:
        """Restore what `state` returned."""
        self._known = set(state)
