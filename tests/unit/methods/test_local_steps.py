"""Local steps: torch's own optimizers within a round, the batches that are read, and the gradients that are counted."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from byzdist.config.reading import parse
from byzdist.errors import ConfigError
from byzdist.methods.base import ClientTask
from byzdist.methods.estimates import SGD
from byzdist.methods.local_steps import LocalSteps
from byzdist.rounds import Round
from tests.support.cases import case

TORCH: dict[str, tuple[Any, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {}, {}, {"weight_decay": 0.1}),
    "momentum": (torch.optim.SGD, {"momentum": 0.8}, {"momentum": 0.8}, {}),
    "adamw": (torch.optim.AdamW, {"betas": (0.8, 0.95)}, {"beta1": 0.8, "beta2": 0.95}, {"weight_decay": 0.1}),
}
X = torch.tensor([5.0, 50.0], dtype=torch.float64)


class Parabolas:
    """f_j(x) = ‖x - (j, 2j)‖²/2 for samples j = 0..39 of any client."""

    device = torch.device("cpu")

    def __init__(self):
        self.asked = []

    def samples(self, client):
        return 40

    def gradient(self, x, client, batch, out, round_=None):
        self.asked.append((round_.step if round_ else 0, batch.tolist()))
        out.copy_(x - torch.tensor([batch.mean(), 2 * batch.mean()]))


def local(steps=4, remember=False, **inner):
    return LocalSteps(step_size=1.0, cohort=4, batch_size=8, steps=steps, inner=inner, remember_inner=remember)


def sent(method, oracle, round_=3, memory=None):
    out = torch.full((2,), torch.nan, dtype=torch.float64)
    method.message(oracle, ClientTask(Round(round_, 9), 2, X, None, {} if memory is None else memory), out)
    return out


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("remember", [False, True])
def test_a_client_takes_the_steps_of_torchs_optimizer(name, remember):
    kind, options, ours, decay = TORCH[name]
    oracle, y, memory = Parabolas(), torch.nn.Parameter(X.clone()), {}
    method = local(remember=remember, name=name, step_size=0.3, **ours, **decay)
    optimizer = kind([y], lr=0.3, **options, **decay)
    for round_ in (3, 4):
        with torch.no_grad():
            y.copy_(X)
        if not remember:
            optimizer = kind([y], lr=0.3, **options, **decay)
        moved = sent(method, oracle, round_, memory)
        for _, batch in oracle.asked[-4:]:
            mean = np.mean(batch)
            y.grad = y.detach() - torch.tensor([mean, 2 * mean])
            optimizer.step()
        torch.testing.assert_close(moved, X - y.detach(), rtol=1e-13, atol=1e-13)
    assert bool(memory) == (remember and name != "sgd") and method.clients_remember is remember


def test_batches_are_fresh_in_each_step_and_those_that_are_announced():
    oracle, method = Parabolas(), local(name="sgd", step_size=0.1)
    sent(method, oracle)
    announced = [(now.step, batch.tolist()) for now, batch in method.readings(Round(3, 9), 2, 40)]
    assert oracle.asked == announced and [step for step, _ in announced] == [0, 1, 2, 3]
    assert len({tuple(batch) for _, batch in announced}) == 4


def test_one_step_of_sgd_is_the_gradient_times_its_step():
    gradient = torch.empty(2, dtype=torch.float64)
    oracle: Any = Parabolas()
    task = ClientTask(Round(3, 9), 2, X, None)
    SGD(step_size=1.0, cohort=4, batch_size=8).message(oracle, task, gradient)
    moved = sent(local(steps=1, name="sgd", step_size=0.25), oracle)
    torch.testing.assert_close(moved, 0.25 * gradient, rtol=1e-14, atol=1e-14)


def test_what_is_random_differs_from_step_to_step_and_only_then():
    first, again, second = (replace(Round(3, 9), step=step).rng("network", 2).random() for step in (0, 0, 1))
    assert first == again == Round(3, 9).rng("network", 2).random() != second


@pytest.mark.parametrize(
    "method, words",
    [
        ({"steps": 0}, "method.steps"),
        ({"inner": {"name": "adamv", "step_size": 0.1}}, "method.inner.*unknown inner optimizer 'adamv'.*'adamw'"),
        ({"inner": {"name": "sgd"}}, "method.inner.step_size"),
        ({"inner": {"name": "sgd", "step_size": -1.0}}, "method.inner.step_size"),
        ({"server_optimizer": "adm"}, "unknown server optimizer"),
    ],
)
def test_what_cannot_be_is_refused(method, words):
    inner = {"name": "sgd", "step_size": 0.1}
    with pytest.raises(ConfigError, match=words):
        parse(case("none", p=None, **{"name": "local_steps", "steps": 2, "inner": inner, **method}))
