"""Whether an attack does anything: one that sends what honest clients would send tests nothing."""

import logging

import torch
from torch import Tensor

log = logging.getLogger(__name__)
_MESSAGES = 100  # after which a warning says that the attack has no effect


class Effect:
    """Watches the messages of a worker's attackers until one differs from the honest one; warns if none of the first 100 does."""

    def __init__(self) -> None:
        self._equal = 0
        self._is_decided = False

    def before(self, honest: Tensor) -> Tensor | None:
        """Return a copy of the honest message, which the attack may overwrite; None once there is nothing left to find out."""
        return None if self._is_decided else honest.clone()

    def after(self, honest: Tensor | None, sent: Tensor, name: str) -> None:
        """Compare what is sent with what `before` returned."""
        if honest is None:
            return
        if not torch.equal(honest, sent):
            self._is_decided = True
            return
        self._equal += 1
        if self._equal == _MESSAGES:
            self._is_decided = True
            log.warning(
                "attack: %s has had no effect: each of the first %d messages equals the honest one. Set other parameters, or more "
                "Byzantine clients for a cohort (shift_back acts where they are its majority).",
                name,
                _MESSAGES,
            )
