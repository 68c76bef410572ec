"""Server's ends whose clients are always within reach: only what a client has sent can exclude it."""

import logging
from collections import Counter
from typing import Any

import numpy as np

from byzdist.transport.base import IN_QUARANTINE, ServerEnd

log = logging.getLogger(__name__)


class PresentClients(ServerEnd):
    """The part of a server's end that counts offences and knows who is in quarantine.

    Args:
        clients: how many clients there are.
        limit: how many offences lead to quarantine.
    """

    def __init__(self, clients: int, limit: int) -> None:
        self._everyone, self._limit = np.arange(clients), limit
        self._counts = Counter[int]()
        self._reasons = dict[int, str]()  # by client in quarantine: its last offence
        self.events = []

    def available(self) -> np.ndarray:
        """Return the clients that are not in quarantine; see `ServerEnd.available`."""
        return np.delete(self._everyone, list(self._reasons)) if self._reasons else self._everyone

    def excluded(self, cohort: np.ndarray) -> dict[int, str]:
        """Return why clients of a cohort are missing: those in quarantine, which a cohort drawn from all clients may contain."""
        return {c: IN_QUARANTINE + self._reasons[c] for c in cohort.tolist() if c in self._reasons}

    def blame(self, client: int, reason: str) -> None:
        """Count an offence; see `ServerEnd.blame`."""
        self._counts[client] += 1
        if self._counts[client] == self._limit:
            self._reasons[client] = reason
            text = f"client {client} is in quarantine after {self._limit} offences, the last: {reason}"
            log.warning("%s", text)
            self.events.append(text)

    def quarantined(self) -> set[int]:
        """See `ServerEnd.quarantined`."""
        return set(self._reasons)

    def offences(self) -> dict[int, int]:
        """See `ServerEnd.offences`."""
        return dict(self._counts)

    def snapshot(self, round_: int) -> dict[str, Any]:
        """Return who has offended, in the star's form; see `ServerEnd.snapshot`."""
        return {"clients": [[c, count, self._reasons.get(c, "")] for c, count in self._counts.items()]}

    def resume(self, round_: int, snapshot: dict[str, Any], everyone: bool) -> None:
        """Restore who has offended; see `ServerEnd.resume`."""
        for client, count, reason in snapshot.get("clients", []):
            self._counts[client] = count
            if reason:
                self._reasons[client] = reason
