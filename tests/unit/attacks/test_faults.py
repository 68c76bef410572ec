"""Faults, and which client makes which attack in which round."""

import time

import pytest
import torch

from byzdist.attacks import ATTACKS
from byzdist.attacks.assignment import assignments
from byzdist.attacks.base import Envelope
from byzdist.config.reading import parse
from byzdist.config.schema import Config
from byzdist.errors import ConfigError
from byzdist.rounds import Round
from tests.support.cases import BASE

MESSAGE = torch.arange(100, dtype=torch.uint8)


def envelope(round_: int = 3, earlier: torch.Tensor | None = None) -> Envelope:
    return Envelope(round=Round(round_, 1), client=2, message=MESSAGE.clone(), earlier=earlier)


def config(attack: object, **transport: object) -> Config:
    return parse({**BASE, "attack": attack, "transport": {"name": "star", **transport}})


def test_faults_on_the_wire() -> None:
    assert len(ATTACKS.get("oversize")(envelope())) > len(MESSAGE)
    assert torch.equal(ATTACKS.get("short")(envelope(), size=7), MESSAGE[:7])
    noise = ATTACKS.get("garbage")(envelope())
    assert len(noise) == len(MESSAGE) and not torch.equal(noise, MESSAGE)
    assert torch.equal(noise, ATTACKS.get("garbage")(envelope())), "the same draw again"
    assert torch.equal(ATTACKS.get("replay")(envelope()), MESSAGE), "there is nothing to repeat yet"
    assert torch.equal(ATTACKS.get("replay")(envelope(earlier=MESSAGE[:50])), MESSAGE[:50])


def test_a_probability_is_one(name: str = "short") -> None:
    struck = [len(ATTACKS.get(name)(envelope(k), probability=0.3)) < len(MESSAGE) for k in range(2000)]
    assert 0.25 < sum(struck) / len(struck) < 0.35
    assert struck == [len(ATTACKS.get(name)(envelope(k), probability=0.3)) < len(MESSAGE) for k in range(2000)]


def test_slow_takes_its_time() -> None:
    class Now:
        client, round, honest = 0, Round(0, 0), MESSAGE

    started = time.monotonic()
    assert ATTACKS.get("slow")(Now, seconds=0.2) is MESSAGE
    assert time.monotonic() - started >= 0.2


def test_a_mix_is_by_client_and_round() -> None:
    checked = config(
        [
            {"name": "crash", "clients": [5], "rounds": [3, 4]},
            {"name": "short", "clients": [5, 6], "size": 3},
            "bit_flip",
        ]
    )
    mix = assignments(checked.attacks, checked.clients.byzantine_ids)

    def name(client: int, round_: int) -> str | None:
        return next((entry.attack.__name__ for entry in mix if entry.covers(client, Round(round_, 0))), None)

    assert [name(5, k) for k in (2, 3, 4, 5)] == ["short", "crash", "crash", "short"]
    assert name(6, 3) == "short" and name(7, 3) == "bit_flip" and name(0, 3) is None
    assert mix[1].parameters == {"size": 3, "probability": 1.0}


def test_one_attack_is_everyones() -> None:
    checked = config({"name": "ipm", "epsilon": 0.5})
    (entry,) = assignments(checked.attacks, checked.clients.byzantine_ids)
    assert [client for client in range(9) if entry.covers(client, Round(17, 0))] == [5, 6, 7, 8]
    assert entry.has("omniscient") and not entry.has("on_wire")


@pytest.mark.parametrize(
    ("attack", "error"),
    [
        ([{"name": "bit_flip", "clients": [1, 8]}], r"attack\.0\.clients: \[1\] are not Byzantine clients; .* 5\.\.8"),
        ({"name": "bit_flip", "clients": 3}, r"attack\.clients: 3 are not Byzantine clients"),
        ({"name": "bit_flip", "rounds": [5]}, r"attack\.rounds: \[5\] is not a pair"),
        ({"name": "bit_flip", "rounds": [5, 2]}, r"attack\.rounds"),
        ({"name": "label_flip", "rounds": [0, 2]}, r"attack\.rounds: 'label_flip' changes a client's data"),
        (["bit_flip", {"name": "short", "sise": 2}], r"attack\.1\.sise: unknown key. Did you mean 'size'"),
        ({"name": "slow", "seconds": -1.0}, r"attack\.seconds"),
    ],
)
def test_mistakes_are_named(attack: object, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        config(attack)


def test_faults_on_the_wire_need_the_star() -> None:
    with pytest.raises(ConfigError, match=r"attack: 'garbage' breaks the wire format, which only the star survives"):
        parse({**BASE, "attack": "garbage", "transport": {"name": "collective"}})
