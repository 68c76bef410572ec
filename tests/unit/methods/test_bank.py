"""The bank of demoa and rosdhb: whose momenta the rule gets, with what f, and what is refused."""

from dataclasses import replace

import pytest
import torch

from byzdist.config.reading import parse
from byzdist.errors import ConfigError
from byzdist.methods import Sizes
from byzdist.methods.demoa import DeMoA
from byzdist.methods.rosdhb import RoSDHB
from byzdist.rounds import Messages, Replies, Round
from byzdist.transport.local import LocalServer
from tests.support.cases import RAND_K, SHARED, case
from tests.support.inprocess import train, without

SIZES = Sizes(clients=4, samples=10.0, dimension=2, nonzeros=2.0)
G = torch.tensor([0.5, 0.5])


def rows(method, number, replies, full=False, level=None):
    received = torch.tensor(list(replies.values()), dtype=torch.float32)
    return method.rows(G, Messages(Round(number, 0, full), list(replies), received), level).tolist()


def test_who_is_not_asked_is_there_with_a_decayed_momentum():
    method = DeMoA(step_size=0.1, cohort=2, alpha=0.5).resolved(SIZES)  # α p = 1/4
    everyone = {client: [8.0 * client, 4.0] for client in range(4)}
    assert rows(method, 0, everyone, full=True) == list(everyone.values())
    assert rows(method, 1, {0: [2.0, 0.0], 3: [0.0, 2.0]}) == [[1.0, 3.0], [6.0, 3.0], [12.0, 3.0], [18.0, 4.0]]
    assert rows(method, 2, {1: [0.0, 0.0]}, level=1.0)[1] == [4.5 - 0.5, 2.25 - 0.5], "deviations from g"


def test_who_has_not_replied_yet_is_left_out():
    method = DeMoA(step_size=0.1, cohort=2, alpha=0.5).resolved(SIZES)
    assert rows(method, 0, {0: [1.0, 1.0], 2: [2.0, 2.0]}, full=True) == [[1.0, 1.0], [2.0, 2.0]]
    assert rows(method, 1, {3: [4.0, 4.0]}) == [[0.75, 0.75], [1.5, 1.5], [4.0, 4.0]], "its first reply is its row"
    assert rows(method, 2, {1: [9.0, 9.0]}, full=True) == [[9.0, 9.0]], "a full round fills the bank afresh"


def test_a_cold_bank_has_all_rows():
    method = RoSDHB(step_size=0.1, momentum=0.75, g0="zero").resolved(SIZES)
    assert not method.starts_full and method.cohort == 4
    assert rows(method, 1, {2: [4.0, 8.0]}) == [[0.0, 0.0], [0.0, 0.0], [1.0, 2.0], [0.0, 0.0]]


def test_a_bank_stays_finite_whatever_finite_values_come():
    method, huge = DeMoA(step_size=0.1, cohort=2, alpha=1.5).resolved(SIZES), torch.finfo(torch.float32).max
    for number in range(4):
        found = rows(method, number, {0: [huge, -huge], 1: [1.0, 1.0]}, full=number == 0)
    assert found[0] == [huge, -huge]


class Losing(LocalServer):
    """A server to which client 0 never replies, and in some rounds nobody but client 8."""

    def collect(self, deadline: float) -> Replies:
        replies = super().collect(deadline)
        lonely = self._request.round.number % 3 == 2
        return without(
            replies, {client: "lost" for client in replies.payloads if client == 0 or (lonely and client < 8)}
        )


def test_the_rule_trims_as_many_rows_as_clients_are_declared_however_few_reply(tmp_path):
    tree = case("bit_flip", name="demoa", p=None, clip="none", cohort=3) | {
        "rounds": 12,
        "clients": {"count": 9, "byzantine": 3},
    }
    tree["aggregation"] = {"rule": "trimmed_mean"}
    lines = train(tree, tmp_path, end=Losing).metrics
    assert [line.get("f") for line in lines] == [3 if line["replies"] else None for line in lines]
    assert min(line["replies"] for line in lines[1:]) == 0 and not any("untrusted" in line for line in lines)


@pytest.mark.parametrize(
    "compression, method, words",
    [
        (RAND_K, {"name": "rosdhb"}, "compression: rosdhb needs one mask for all clients.*support: shared"),
        (None, {"name": "demoa", "alpha": 2.0}, r"method.alpha: 2 times p = .* is above 1.*at most 1.8"),
        (None, {"name": "byz_nsgdm", "server_optimizer": "adam"}, "method.server_optimizer"),
        (None, {"name": "demoa", "cohort": 10}, "method.cohort: 10 of 9 clients"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(compression, method, words):
    with pytest.raises(ConfigError, match=words):
        parse(case("none", compression, p=None, **method))


def test_one_mask_fits_and_an_attack_that_reads_g_off_the_steps_does_not_fit_normalized_ones():
    parse(case("none", SHARED, p=None, name="rosdhb"))
    with pytest.raises(ConfigError, match="reads the server's estimate off its steps"):
        parse(case("tests.support.attacks:along", p=None, name="byz_nsgdm"))


def test_a_resolved_method_has_a_bank_of_its_own():
    method = DeMoA(step_size=0.1, cohort=2)
    one, two = method.resolved(SIZES), replace(method).resolved(SIZES)
    rows(one, 0, {0: [1.0, 1.0]}, full=True)
    assert not method.state and not two.state["_known"].any()
