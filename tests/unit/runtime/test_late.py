"""Late replies: whose count in which round, with which weight, and which configurations allow them."""

import logging

import pytest
import torch

from byzdist.config.reading import parse
from byzdist.errors import ConfigError
from byzdist.rounds import LateReply, Messages, Round
from byzdist.runtime.decoding import Decoder
from byzdist.runtime.experiment import prepare
from byzdist.transport.local import LocalServer
from tests.support.cases import RAND_K, case

SGD = case("none", name="sgd", cohort=3, clip=1.0) | {"clients": {"count": 9, "byzantine": 4}}
KEPT = {**SGD, "transport": {"name": "star", "late": "keep"}}


def counted(late, clients, *, full=False, tree=KEPT, offences=9):
    """Decode late replies, {client: (round, value)}, into round 10, in which some clients have replied with zeros."""
    experiment = prepare(parse(tree), torch.device("cpu"))
    transport = LocalServer(experiment.shape(1), offences)
    replies = {
        client: LateReply(Round(number, 5), torch.full((12,), value, dtype=torch.float64).view(torch.uint8))
        for client, (number, value) in late.items()
    }
    received = Messages(Round(10, 5, full), clients, torch.zeros(len(clients), 12, dtype=torch.float64))
    found, events = Decoder(experiment, transport).with_late(received, replies, experiment.method)
    return dict(zip(found.clients, found.rows[:, 0].tolist(), strict=True)), events, transport


def test_a_late_reply_counts_less_with_its_age_and_rows_stay_in_the_order_of_clients():
    rows, events, _ = counted({1: (8, 9.0)}, [0, 4, 5])
    assert list(rows) == [0, 1, 4, 5] and rows[1] == pytest.approx(9.0 * (1 - 3 / 9) ** 2)
    assert events == ["client 1's reply to round 8 counts in round 10"]


def test_a_momentum_decays_as_in_a_bank_of_momenta():
    tree = case("none", name="momentum_sgd", momentum=0.8, cohort=3, clip=1.0) | {"transport": KEPT["transport"]}
    rows, _, _ = counted({1: (7, 9.0)}, [0, 4], tree=tree)
    assert rows[1] == pytest.approx(9.0 * (1 - 0.2 * 3 / 9) ** 3)


def test_late_rows_are_half_of_the_others_at_most_the_youngest_first_and_one_a_client():
    late = {1: (7, 1.0), 2: (9, 1.0), 3: (9, 1.0), 4: (9, 1.0)}
    rows, _, _ = counted(late, [0, 4, 5, 6])
    assert list(rows) == [0, 2, 3, 4, 5, 6] and rows[4] == 0.0  # client 4 has replied in time
    assert list(counted(late, [0])[0]) == [0]
    assert list(counted(late, [])[0]) == []


def test_full_rounds_take_none():
    assert list(counted({1: (9, 1.0)}, [0, 4, 5], full=True)[0]) == [0, 4, 5]


def test_a_late_reply_that_is_not_finite_is_an_offence_and_takes_no_place():
    rows, _, transport = counted({1: (9, float("nan")), 2: (9, 1.0)}, [0, 4], offences=1)
    assert list(rows) == [0, 2, 4] and transport.offences() == {1: 1} and transport.quarantined() == {1}


def test_differences_and_compressors_that_remember_refuse_late_replies(caplog):
    with pytest.raises(
        ConfigError, match="transport.late: the clients of byz_vr_marina_pp send what holds for their own"
    ):
        parse(case("none") | {"transport": KEPT["transport"]})
    with pytest.raises(ConfigError, match="transport.late: 'tests.support.pieces:ErrorFeedback' remembers"):
        parse(KEPT | {"compression": {"name": "tests.support.pieces:ErrorFeedback", "count": 5}})
    parse(KEPT | {"compression": RAND_K})
    with caplog.at_level(logging.WARNING, logger="byzdist.config.exchange"):
        parse(KEPT | {"method": {**SGD["method"], "clip": "none"}})
    assert any("attackers can answer late on purpose" in message for message in caplog.messages)
