"""A warning for an attack without effect: one that sends only what honest clients would send tests nothing."""

import logging

import torch
from torch import Tensor

log = logging.getLogger(__name__)
_MESSAGES = 100  # after this many honest messages, the warning is logged


class Effect:
    """Compares the messages of a worker's attackers with the honest ones, until one differs; warns if none of the first 100 does."""

    def __init__(self) -> None:
        self._equal = 0
        self._is_decided = False

    def before(self, honest: Tensor) -> Tensor | None:
        """Return a copy of the honest message, because the attack may overwrite it; None once the comparison is decided."""
        return None if self._is_decided else honest.clone()

    def after(self, honest: Tensor | None, sent: Tensor, name: str) -> None:
        """Compare the message sent with the copy that `before` returned."""
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
                "Byzantine clients for a cohort (shift_back acts only if they are its majority).",
                name,
                _MESSAGES,
            )
