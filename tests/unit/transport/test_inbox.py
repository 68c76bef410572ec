"""What a worker makes of the messages that arrive, without a transport."""

import numpy as np
import pytest
import torch

from byzdist.transport.base import Received, Resume, Save
from byzdist.transport.inbox import Inbox
from byzdist.transport.wire import HAS_MODEL, HAS_PREVIOUS, Kind, RequestFrame, bare_message
from tests.support.star import shape_of

SHAPE = shape_of(3, clients=7, dimension=4)
RANK = 2  # hosts clients 1 and 4
BOTH = HAS_MODEL | HAS_PREVIOUS


class Sender:
    """Packs requests whose model x^k holds k everywhere, and leaves them in an inbox; ``apart``: models are a message of their own."""

    def __init__(self, shares_headers: bool = False, apart: bool = False) -> None:
        self._frame, ours, theirs = (
            RequestFrame(4, 7, 7, torch.float64, SHAPE.device, torch.zeros(8, dtype=torch.float64) if apart else None)
            for _ in range(3)
        )
        self.inbox = Inbox(SHAPE, RANK, (ours, theirs), shares_headers)
        self.rooms: list[int] = []

    def send(self, number, flags, kind=Kind.SAMPLED, cohort=(1, 2, 4)):
        self._frame.current.fill_(number)
        self._frame.previous.fill_(number - 1)
        message, *apart = self._frame.pack(kind, number, np.array(cohort), everyone=False, flags=flags)
        self.inbox.buffer[: len(message)] = message
        parts = iter(apart)
        self.rooms = []

        def receive(room):
            self.rooms.append(room.numel())
            room.copy_(next(parts)[: len(room)])

        return self.inbox.take(receive)


def found(received):
    assert isinstance(received, Received)
    previous = None if received.previous is None else received.previous.tolist()
    return received.round.number, received.mine, received.x.tolist(), previous


@pytest.mark.parametrize("apart", [False, True])
def test_the_model_of_the_last_round_need_not_be_sent_again(apart):
    sender = Sender(apart=apart)
    assert found(sender.send(5, BOTH)) == (5, [1, 4], [5.0] * 4, [4.0] * 4)
    assert sender.rooms == ([8] if apart else [])
    assert found(sender.send(6, HAS_MODEL)) == (6, [1, 4], [6.0] * 4, [5.0] * 4), "x^5 is here"
    assert found(sender.send(8, HAS_MODEL)) == (8, [1, 4], [8.0] * 4, None), "x^7 is not"
    sender.inbox.forget_model()
    assert found(sender.send(9, HAS_MODEL))[3] is None, "a link that was opened again may have missed a round"


def test_in_a_header_for_all_what_others_lack_is_not_received():
    sender = Sender(shares_headers=True, apart=True)
    sender.send(5, BOTH)
    assert sender.rooms == [8]
    assert found(sender.send(6, BOTH)) == (6, [1, 4], [6.0] * 4, [5.0] * 4) and sender.rooms == [4]
    sender = Sender(apart=True)
    sender.send(5, BOTH)
    assert found(sender.send(6, BOTH))[3] == [5.0] * 4 and sender.rooms == [8], "in a header of its own it is sent"


def test_a_full_round_may_come_without_the_model_and_says_so():
    received = Sender().send(5, 0, kind=Kind.FULL, cohort=(0, 1))
    assert received.round.full and not received.has_model and received.mine == [1]
    assert received.round.cohort.tolist() == [0, 1] and received.round.seed == SHAPE.seed


def test_orders_and_the_end():
    sender = Sender()
    sender.send(5, HAS_MODEL)
    order = bare_message(Kind.SAVE, 5, length=3)
    sender.inbox.buffer[: len(order)] = order
    assert sender.inbox.take(lambda room: pytest.fail()) == Save(5, 3)
    assert found(sender.send(6, HAS_MODEL))[3] == [5.0] * 4, "an order to save costs no model"
    assert sender.send(9, HAS_MODEL, kind=Kind.RESUME) == Resume(9)
    assert found(sender.send(10, HAS_MODEL))[3] == [9.0] * 4
    assert sender.send(20, 0, kind=Kind.RESUME) == Resume(20)
    assert found(sender.send(21, HAS_MODEL))[3] is None, "it did not hold that model then"
    assert sender.send(0, 0, kind=Kind.STOP) is None
