"""Methods with copies: what they refuse, their defaults, and what hostile clients can do to the server's rows."""

from typing import Any

import pytest
import torch

from byzdist.config.reading import parse
from byzdist.errors import ConfigError
from byzdist.methods import METHODS, ClientTask, Sizes
from byzdist.methods.byz_clip21 import ByzClip21
from byzdist.methods.byz_dasha_page import ByzDashaPage
from byzdist.methods.byz_ef21 import ByzEF21
from byzdist.rounds import Messages, Round
from byzdist.runtime.experiment import prepare
from tests.support.cases import BASE

NAMES = ["byz_ef21", "byz_ef21_sgdm", "byz_dm21", "byz_vr_dm21", "byz_dasha_page", "byz_clip21"]
NEEDED = {"byz_clip21": {"tau": 1.0}}
TOP_K = {"name": "top_k", "ratio": 0.3}
RAND_K = {"name": "rand_k", "ratio": 0.3}


def tree(name, compression="identity", **parameters):
    method = {"name": name, "step_size": 0.1, **NEEDED.get(name, {}), **parameters}
    return {**BASE, "method": method, "compression": compression}


def sizes(omega=0.0):
    return Sizes(clients=3, samples=96.0, dimension=2, nonzeros=2.0, omega=omega)


@pytest.mark.parametrize("name", NAMES)
def test_they_ask_everybody_and_do_not_clip(name):
    config = parse(tree(name))
    method = prepare(config, torch.device("cpu")).method
    assert method.cohort == method.full_cohort == 9 and method.clip_level(1.0) is None
    for key, value in (("cohort", 5), ("full_cohort", 8), ("clip", 1.0)):
        with pytest.raises(ConfigError, match=rf"method\.{key}: .*[Ll]eave the key out"):
            parse(tree(name, **{key: value}))


@pytest.mark.parametrize(
    "name, compression, complaint",
    [
        ("byz_ef21", RAND_K, "compression: this method needs a contraction, such as top_k"),
        ("byz_dasha_page", TOP_K, "'top_k' is biased, and byz_dasha_page needs an unbiased compressor"),
        ("byz_clip21", TOP_K, "'top_k' is biased"),
        ("byz_ef21", {"name": "error_feedback", "compressor": TOP_K}, "byz_ef21 corrects what a compressor leaves out"),
        ("sgd", TOP_K, "'top_k' is biased, and sgd needs an unbiased compressor, such as rand_k, or error feedback"),
    ],
)
def test_compressors_that_do_not_fit_are_refused(name, compression, complaint):
    parameters = {"cohort": 5} if name == "sgd" else {}
    with pytest.raises(ConfigError, match=complaint):
        prepare(parse(tree(name, compression, **parameters)), torch.device("cpu"))


def test_defaults_of_dasha_page():
    made: Any = ByzDashaPage(step_size=0.1).resolved(sizes(omega=2.0))
    assert (made.a, made.p) == (0.2, 0.25)
    made = ByzDashaPage(step_size=0.1, a=0.5, p=1.0).resolved(sizes(omega=None))
    assert (made.a, made.p) == (0.5, 1.0)
    with pytest.raises(ConfigError, match="method.a: .* Give a"):
        ByzDashaPage(step_size=0.1).resolved(sizes(omega=None))


def received(*rows, clients=None, afresh=frozenset()):
    matrix = torch.tensor(rows, dtype=torch.float64)
    return Messages(Round(3, 0), clients or list(range(len(rows))), matrix, afresh)


def test_messages_are_added_and_replace_the_row_of_who_starts_afresh():
    method, g = ByzEF21(step_size=0.1).resolved(sizes()), torch.zeros(2, dtype=torch.float64)
    assert method.rows(g, received([1.0, 2.0], [3.0, 4.0]), None).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    rows = method.rows(g, received([1.0, 1.0], [5.0, 6.0], clients=[0, 2], afresh={0}), None)
    assert rows.tolist() == [[1.0, 1.0], [3.0, 4.0], [5.0, 6.0]]
    clip = ByzClip21(step_size=0.1, tau=1.0, beta2=0.5).resolved(sizes())
    assert clip.rows(g, received([1.0, 2.0]), None).tolist() == [[0.5, 1.0], [0.0, 0.0], [0.0, 0.0]]


class Flat:
    """A loss without slope, in place of the Oracle."""

    def samples(self, client):
        return 8

    def gradient(self, x, client, batch, out):
        out.zero_()


def test_the_noise_of_earlier_messages_is_never_taken_back():
    """In Islamov et al.'s Algorithm 1 the client's g_i is free of noise: where v_i is 0, so is g_i, and each message is fresh noise."""
    method: Any = ByzClip21(step_size=0.1, tau=1.0, beta2=0.5, sigma=0.3).resolved(sizes())
    oracle: Any = Flat()
    memory, x, sums = {}, torch.zeros(2000, dtype=torch.float64), torch.zeros(2000, dtype=torch.float64)
    for number in range(1, 6):
        task, c = ClientTask(Round(number, 0), 1, x, None, memory), torch.empty_like(x)
        method.message(oracle, task, c)
        drawn = 0.3 * torch.from_numpy(Round(number, 0).rng("noise", 1).standard_normal(2000))
        torch.testing.assert_close(c, drawn, rtol=0.0, atol=1e-12)
        method.note_sent(memory, c)
        sums += 0.5 * c
    torch.testing.assert_close(memory["copy"], sums)  # as the server's row
    afresh = ClientTask(Round(6, 0), 1, x, None, memory, afresh=True)
    method.message(oracle, afresh, c)
    assert float(c.norm()) < 0.3 * 2000**0.5 * 1.2  # no noise of before, which would be twice as long


def test_finite_messages_never_add_up_to_infinity():
    method, g = ByzEF21(step_size=0.1).resolved(sizes()), torch.zeros(2, dtype=torch.float64)
    for _ in range(3):
        rows = method.rows(g, received([1.7e308, -1.7e308]), None)
    assert rows.isfinite().all() and rows.abs().min() > 1.7e308


def test_what_they_say_of_themselves():
    methods: dict[str, Any] = {name: METHODS.get(name) for name in NAMES}
    assert [name for name, method in methods.items() if method.allows_biased] == NAMES[:4]
    assert [name for name, method in methods.items() if method.sends_differences] == NAMES[3:5]
    assert all(method.keeps_copies and method.clients_remember for method in methods.values())
