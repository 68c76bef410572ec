"""The assignment of attacks to Byzantine clients and rounds."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from byzdist.attacks.base import ATTACKS, Attack, Context, Envelope
from byzdist.errors import ConfigError, describe_error
from byzdist.registry import Spec
from byzdist.rounds import Round

ASSIGNED = ("clients", "rounds")
"""The keys of an entry that are not parameters of the attack."""


@dataclass(frozen=True)
class Assignment:
    """One entry of the configuration's ``attack``; ``rounds`` is None for all rounds."""

    name: str
    attack: Attack
    parameters: Mapping[str, Any]
    clients: Collection[int]
    rounds: range | None

    def covers(self, client: int, round_: Round) -> bool:
        """Return whether a client mounts this attack in a round."""
        return client in self.clients and (self.rounds is None or round_.number in self.rounds)

    @cached_property
    def is_honest(self) -> bool:
        """Whether the attack is to behave honestly."""
        return self.attack is ATTACKS.get("none")

    @property
    def changes_messages(self) -> bool:
        """Whether the attack changes the client's messages themselves, and not its data or its process."""
        return not (self.has("on_labels") or self.has("on_process") or self.is_honest)

    def mount(self, now: Context | Envelope) -> Tensor:
        """Return what the attack sends.

        Raises:
            ConfigError: if a user's own attack raises an exception: a run that goes on without it would look like a withstood attack.
        """
        try:
            return self.attack(now, **self.parameters)
        except (ConfigError, MemoryError):
            raise
        except Exception as error:
            if ":" not in self.name:
                raise
            raise ConfigError(
                f"attack: {self.name!r} ended in round {now.round.number} with {describe_error(error)}."
            ) from error

    def vector(self, now: Context) -> Tensor:
        """Return what the attack sends in place of the honest vector, in the form of that one.

        Raises:
            ConfigError: as `mount`, or if it is not a vector of as many real numbers.
        """
        sent = self.mount(now)
        if not isinstance(sent, Tensor) or sent.shape != now.honest.shape or sent.is_complex():
            what = f"a {type(sent).__name__}"
            if isinstance(sent, Tensor):
                what = f"{list(sent.shape)} of {str(sent.dtype).removeprefix('torch.')}"
            raise ConfigError(
                f"attack: {self.name!r} must return a tensor of now.honest's shape, {list(now.honest.shape)} (it returned {what})."
            )
        return sent.to(now.honest)

    def has(self, mark: str) -> bool:
        """Return whether the attack has a mark such as "omniscient"."""
        return bool(getattr(self.attack, mark, False))


def assignments(specs: Sequence[Spec], byzantine: Collection[int]) -> list[Assignment]:
    """Return the checked entries. An entry without ``clients`` is for all Byzantine clients; the first one that covers a client counts."""
    found = []
    for spec in specs:
        rounds = spec.parameters.get("rounds")
        found.append(
            Assignment(
                spec.name,
                ATTACKS.get(spec.name),
                spec.without(*ASSIGNED).parameters,
                frozenset(spec.parameters.get("clients", byzantine)),
                range(rounds[0], rounds[1] + 1) if rounds else None,
            )
        )
    return found


def flipped(specs: Sequence[Spec], byzantine: Collection[int]) -> set[int]:
    """Return the clients whose labels are flipped, in all rounds.

    Raises:
        ConfigError: if an earlier entry covers such a client in some rounds.
    """
    found, settled, changing = set[int](), set[int](), set[int]()
    for i, entry in enumerate(assignments(specs, byzantine)):
        reached = set(entry.clients) - settled
        if entry.rounds is not None:
            changing |= reached
            continue
        settled |= reached
        if entry.has("on_labels"):
            if torn := reached & changing:
                raise ConfigError(
                    f"attack.{i}: {specs[i].name!r} changes a client's data for the whole run, but an earlier entry "
                    f"covers {sorted(torn)} in some rounds. Give the two entries different clients."
                )
            found |= reached
    return found


def check_assignment(spec: Spec, key: str, byzantine: range) -> dict[str, list[int]]:
    """Check the clients and rounds of an entry, and return them.

    Raises:
        ConfigError: naming the key.
    """
    checked = {}
    if (clients := spec.parameters.get("clients")) is not None:
        listed = isinstance(clients, list)
        strangers = [c for c in clients if type(c) is not int or c not in byzantine] if listed else clients
        if strangers or not clients:
            known = f"{byzantine[0]}..{byzantine[-1]}" if byzantine else "none (clients.byzantine: 0)"
            raise ConfigError(
                f"{key}.clients: {strangers!r} are not Byzantine clients; give a list of ids from {known}."
            )
        checked["clients"] = clients
    if (rounds := spec.parameters.get("rounds")) is not None:
        numbers = isinstance(rounds, list) and len(rounds) == 2 and all(type(r) is int for r in rounds)
        if not numbers or not 0 <= rounds[0] <= rounds[1]:
            raise ConfigError(f"{key}.rounds: {rounds!r} is not a pair [first, last] of rounds.")
        checked["rounds"] = rounds
    return checked
