"""Server optimizers against torch's own, and under clipping, a kill and attackers."""

from typing import Any

import pytest
import torch

from byzdist.config.reading import parse
from byzdist.errors import ConfigError
from tests.support.cases import case
from tests.support.inprocess import train, train_in
from tests.support.runs import drop_after

TORCH: dict[str, tuple[dict[str, Any], Any, dict[str, Any]]] = {
    "plain": ({"name": "sgd"}, torch.optim.SGD, {}),
    "heavy ball": ({"name": "sgd", "momentum": 0.8}, torch.optim.SGD, {"momentum": 0.8}),
    "nesterov": ({"name": "nesterov", "momentum": 0.7}, torch.optim.SGD, {"momentum": 0.7, "nesterov": True}),
    "adam": ({"name": "adam", "beta1": 0.8, "beta2": 0.95}, torch.optim.Adam, {"betas": (0.8, 0.95)}),
}


@pytest.mark.parametrize("name", TORCH)
def test_a_run_is_torchs_optimizer(name, tmp_path):
    """One client, full batches, no clipping."""
    settings, kind, options = TORCH[name]
    alone = {"clients": {"count": 1}, "aggregation": {"rule": "mean"}, "rounds": 30}
    method: dict[str, Any] = {"name": "sgd", "cohort": 1, "batch_size": 1000, "clip": "none", "step_size": 0.1}
    trained = train(case("none", **method, server_optimizer=settings) | alone, tmp_path)
    oracle = trained.experiment.oracle
    x = torch.nn.Parameter(oracle.initial().clone())
    optimizer = kind([x], lr=0.1, **options)
    for _ in range(30):
        x.grad = torch.empty_like(x)
        oracle.gradient(x.detach(), 0, None, x.grad)
        optimizer.step()
    torch.testing.assert_close(trained.x, x.detach(), rtol=1e-12, atol=1e-12)


def test_the_clipping_level_is_that_of_the_model_s_own_step(tmp_path):
    tree = case("none", name="sgd", clip=0.7, clip_growth="none", server_optimizer={"name": "adam"}) | {"rounds": 12}
    models = []
    lines = train(tree, tmp_path, tamper=lambda server, round_: models.append(server.x.clone())).metrics
    for k in range(1, 13):
        moved = float(torch.linalg.vector_norm(models[k] - models[k - 1]))
        assert lines[k]["kind"] != "sampled" or lines[k]["clip_level"] == pytest.approx(0.7 * moved, rel=1e-9)


@pytest.mark.parametrize("optimizer", [{"name": "adam"}, {"name": "sgd", "momentum": 0.9}])
def test_growth_of_the_estimate_beyond_the_bound_takes_the_level_back_to_it(tmp_path, optimizer):
    """The level is α times the step that x takes; if ‖g‖ is too large, it is multiplied by bound/‖g‖."""
    tree = case("none", name="sgd", clip=0.7, clip_growth=1.5, server_optimizer=optimizer) | {"rounds": 14}
    seen = []

    def grow(server, round_):
        seen.append((server.x.clone(), float(torch.linalg.vector_norm(server.estimate.g.mul_(2.0)))))

    lines, bounded = train(tree, tmp_path, tamper=grow).metrics, 0
    reference = seen[0][1] / 2.0
    for k, line in enumerate(lines[1:], 1):
        if line["kind"] == "full":
            break
        moved, size = float(torch.linalg.vector_norm(seen[k][0] - seen[k - 1][0])), seen[k - 1][1]
        assert line["clip_level"] == pytest.approx(0.7 * moved * min(1.0, 1.5 * reference / size), rel=1e-9)
        bounded += size > 1.5 * reference
    assert bounded == 3 and k == 4 and "|g| is" in lines[k]["called"]  # the full round that a large estimate calls


@pytest.mark.parametrize("name", ["nesterov", "adam"])
def test_a_killed_run_goes_on_to_the_same_bits(name, tmp_path):
    tree = case("none", name="momentum_sgd", server_optimizer={"name": name}, weight_decay=0.01)
    tree |= {"rounds": 12, "checkpoint": {"every": 1, "keep": 100}}
    whole = train_in(tree, tmp_path)
    assert 1 <= drop_after(tmp_path, 7) <= 7
    assert torch.equal(train_in(tree, tmp_path, resume=True), whole)


@pytest.mark.parametrize(
    ("attack", "method", "words"),
    [
        ("none", {"name": "byz_vr_marina_pp"}, "server_optimizer: .*parameter of .*sgd"),
        ("none", {"name": "sgd", "server_optimizer": {"name": "adm"}}, "unknown server optimizer 'adm'.*'adam'"),
        ("tests.support.attacks:along", {"name": "sgd"}, "reads the server's estimate off its steps"),
    ],
)
def test_what_cannot_be_is_refused(attack, method, words):
    with pytest.raises(ConfigError, match=words):
        parse(case(attack, **{"server_optimizer": {"name": "adam"}, **method}))
