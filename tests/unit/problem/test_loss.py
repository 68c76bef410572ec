"""What a module does while it trains: random layers, buffers, precision; and that two points see the same network."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from byzdist.config.reading import parse
from byzdist.errors import ConfigError
from byzdist.problem.client_data import parts
from byzdist.problem.data import Dataset, Split
from byzdist.problem.loss import Loss
from byzdist.problem.modules import swap_norms
from byzdist.problem.objective import is_counted
from byzdist.problem.oracle import BUFFERS
from byzdist.problem.tasks.classification import CLASSIFICATION
from byzdist.problem.trial import try_out, try_single_samples
from byzdist.randomness import stream
from byzdist.rounds import ClientMemories, Round
from byzdist.runtime.experiment import prepare
from tests.support.cases import case
from tests.support.problem import oracle_of

SAMPLES = 40


NORMALIZED = {"name": "tests.support.combinations:normalized", "buffers": "local"}


def oracle_with(module, **options):
    generator = stream(1, "loss test")
    dataset = Dataset("t", generator.standard_normal((SAMPLES, 6)), generator.integers(3, size=SAMPLES), None, None, 3)
    return oracle_of(module, dataset, Split(SAMPLES, 4, None), **options)


def stack(*between):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), *between, nn.ReLU(), nn.Linear(8, 3))


def gradient(oracle, x, client=1, round_=3, batch=None):
    out = torch.empty_like(x)
    oracle.begin(Round(round_, 5), x)
    oracle.gradient(x, client, batch, out)
    return out


def test_dropout_is_the_same_at_both_points_and_other_for_each_client_and_round():
    oracle = oracle_with(stack(nn.Dropout(0.5)))
    x, batch = oracle.initial(), np.arange(10)
    new, old, out = x + 0.1, x - 0.1, torch.empty_like(x)
    oracle.begin(Round(3, 5), new, old)
    oracle.difference(new, old, 1, batch, out)
    torch.testing.assert_close(
        out, gradient(oracle, new, batch=batch) - gradient(oracle, old, batch=batch), rtol=1e-10, atol=1e-13
    )
    again = gradient(oracle, x, batch=batch)
    assert torch.equal(again, gradient(oracle, x, batch=batch))
    for client, round_ in ((2, 3), (1, 4)):
        assert not torch.allclose(again, gradient(oracle, x, client, round_, batch))


def test_random_layers_leave_the_global_generator_alone_and_are_not_shared_between_clients():
    oracle = oracle_with(stack(nn.Dropout(0.5)))
    torch.manual_seed(9)
    before = torch.random.get_rng_state()
    x = oracle.initial()
    first, second = gradient(oracle, x, client=0), gradient(oracle, x, client=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.allclose(first, second)


def test_dropout_is_off_where_a_model_is_measured():
    torch.manual_seed(1)
    plain, random = oracle_with(stack()), oracle_with(stack(nn.Dropout(0.5)))
    x = plain.initial()
    gradient(random, x)
    batch = (plain.data.features, plain.data.targets)
    assert random.loss.measure(x, batch, SAMPLES) == plain.loss.measure(x, batch, SAMPLES)


def test_masks_have_the_mean_that_dropout_promises():
    """Over many rounds the mean gradient of a linear model with dropout on its inputs is that of the expected loss."""
    module = nn.Sequential(nn.Dropout(0.25), nn.Linear(6, 3))
    oracle = oracle_with(module)
    x, batch = oracle.initial(), np.arange(SAMPLES)
    found = torch.stack([gradient(oracle, x, round_=number, batch=batch) for number in range(400)])
    draws = []
    for seed in range(400):
        torch.manual_seed(seed)
        weight = torch.zeros(3, 6, dtype=torch.float64, requires_grad=True)
        bias = x[18:].clone()
        inputs = F.dropout(oracle.data.features, 0.25)
        F.cross_entropy(inputs @ (x[:18].view(3, 6) + weight).T + bias, oracle.data.targets).backward()
        draws.append(weight.grad.flatten())
    error = (found[:, :18].mean(0) - torch.stack(draws).mean(0)).abs().max()
    assert float(error) < 5 * float(found[:, :18].std(0).max()) / 400**0.5


@pytest.mark.parametrize("policy", ["frozen", "local"])
def test_batch_norm_needs_a_policy(policy):
    with pytest.raises(ConfigError, match=r"batch norm.*swap_norms.*model\.buffers=frozen.*model\.buffers=local"):
        Loss(stack(nn.BatchNorm1d(8)), CLASSIFICATION)
    Loss(stack(nn.BatchNorm1d(8)), CLASSIFICATION, buffers=policy)


def test_frozen_buffers_stay_and_normalize_as_they_are():
    module = stack(nn.BatchNorm1d(8))
    module[1].running_mean.fill_(0.5)
    module[1].running_var.fill_(4.0)
    oracle = oracle_with(module, buffers="frozen")
    x = oracle.initial()
    found = gradient(oracle, x)
    assert module[1].running_mean.eq(0.5).all() and int(module[1].num_batches_tracked) == 0

    def loss(flat):
        p = oracle.loss.flat.pieces(flat)
        hidden = oracle.data.features @ p["0.weight"].T + p["0.bias"]
        hidden = (hidden - 0.5) / (4.0 + 1e-5) ** 0.5 * p["1.weight"] + p["1.bias"]
        return F.cross_entropy(hidden.relu() @ p["3.weight"].T + p["3.bias"], oracle.data.targets)

    torch.testing.assert_close(found, torch.func.grad(loss)(x), rtol=1e-9, atol=1e-12)


def test_the_trial_leaves_local_buffers_as_they_were():
    """On private data each rank would else have buffers of its own, and the server would refuse it."""
    oracle = oracle_with(stack(nn.BatchNorm1d(8)), buffers="local")
    before = oracle.loss.copy_buffers()
    try_out(oracle.loss, oracle.data, 3, "mine:net")
    assert all(torch.equal(before[name], buffer) for name, buffer in oracle.loss.copy_buffers().items())


def test_local_buffers_are_each_clients_own_and_survive_a_restart():
    def run(rounds, memories):
        oracle = oracle_with(stack(nn.BatchNorm1d(8)), buffers="local")
        oracle.memories = memories
        x = oracle.initial()
        for number in rounds:
            for client in (0, 1) if number % 2 else (1,):
                gradient(oracle, x, client, number, stream(0, "b", client, number).choice(SAMPLES, 10, replace=False))
        return oracle

    whole, halves = ClientMemories([BUFFERS]), ClientMemories([BUFFERS])
    run(range(6), whole)
    run(range(3), halves)
    resumed = ClientMemories([BUFFERS])
    resumed.restore(halves.tensors(), torch.device("cpu"))
    run(range(3, 6), resumed)
    assert whole.tensors().keys() == resumed.tensors().keys()
    for key, tensor in whole.tensors().items():
        assert torch.equal(tensor, resumed.tensors()[key]), key
    first, second = [whole.of(BUFFERS, client)["1.running_mean"] for client in (0, 1)]
    assert not torch.allclose(first, second)
    assert [int(whole.of(BUFFERS, client)["1.num_batches_tracked"]) for client in (0, 1)] == [3, 6]


def test_a_model_with_local_buffers_is_measured_by_the_batch_and_not_changed():
    module = stack(nn.BatchNorm1d(8))
    oracle = oracle_with(module, buffers="local")
    x, batch = oracle.initial(), (oracle.data.features, oracle.data.targets)
    first, second = oracle.loss.measure(x, batch, SAMPLES), oracle.loss.measure(x, batch, SAMPLES)
    assert first == second and int(module[1].num_batches_tracked) == 0


def test_swap_norms_keeps_weights_and_makes_samples_independent():
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Sequential(nn.ReLU(), nn.BatchNorm2d(6, affine=False))
    )
    weight = module[1].weight
    swapped = swap_norms(module, groups=4)
    assert isinstance(swapped, nn.Sequential) and isinstance(swapped[2], nn.Sequential)
    assert [type(swapped[1]), type(swapped[2][1])] == [nn.GroupNorm, nn.GroupNorm]
    assert swapped[1].weight is weight and swapped[1].num_groups == 3  # the largest up to 4 that divides 6
    images = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(swapped(images)[:1], swapped(images[:1]))
    assert isinstance(swap_norms(nn.BatchNorm1d(8)), nn.GroupNorm)


def test_bf16_computes_in_bfloat16_and_keeps_x_and_gradients():
    seen = []

    class Spy(nn.Module):
        def forward(self, inputs):
            seen.append(inputs.dtype)
            return inputs

    full, half = (oracle_with(stack(Spy()), dtype=torch.float32, precision=p) for p in ("full", "bf16"))
    x = full.initial()
    exact, found = gradient(full, x), gradient(half, x)
    assert seen[-1] == torch.bfloat16 and seen[0] == torch.float32 and found.dtype == torch.float32
    assert not torch.equal(found, exact)
    torch.testing.assert_close(found, exact, rtol=0.1, atol=0.02)


class Checkpointed(nn.Module):
    def __init__(self, whether):
        super().__init__()
        self.inner, self.whether = stack(nn.Dropout(0.3)), whether

    def forward(self, inputs):
        return checkpoint(self.inner, inputs, use_reentrant=False) if self.whether else self.inner(inputs)


def test_activation_checkpointing_changes_nothing():
    plain, saving = oracle_with(Checkpointed(False)), oracle_with(Checkpointed(True))
    x = plain.initial()
    assert torch.equal(gradient(plain, x), gradient(saving, x))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells, self.out = nn.LSTM(2, 5, num_layers=2, dropout=0.2, batch_first=True), nn.Linear(5, 3)

    def forward(self, inputs):
        return self.out(self.cells(inputs.view(-1, 3, 2))[0][:, -1])


def test_a_recurrent_network_with_dropout_trains_and_follows_x():
    oracle = oracle_with(Recurrent())
    x = oracle.initial()
    assert oracle.loss.is_random
    losses = []
    for number in range(150):
        losses.append(oracle.loss.measure(x, (oracle.data.features, oracle.data.targets), SAMPLES).loss)
        x = x - 2.0 * gradient(oracle, x, round_=number)
    assert losses[-1] < losses[0] - 0.05  # labels are random: there is little to learn


def test_batch_norm_of_flat_features_can_be_swapped_or_local():
    """One number a channel: a group of one channel, or a batch of one sample, would leave nothing of it."""
    layers = [*map(nn.BatchNorm1d, (1, 2, 7, 8)), nn.BatchNorm2d(8)]
    groups = [norm.num_groups for norm in map(swap_norms, layers) if isinstance(norm, nn.GroupNorm)]
    assert groups == [1, 1, 1, 4, 8]
    for module, options in (
        (swap_norms(stack(nn.BatchNorm1d(8))), {}),
        (stack(nn.BatchNorm1d(8)), {"buffers": "local"}),
    ):
        oracle = oracle_with(module, **options)
        try_out(oracle.loss, oracle.data, 3, "mine:net")
        assert not is_counted(oracle.loss, oracle.data)


def test_batches_are_at_most_so_large_and_no_single_sample_is_left_over():
    for size in range(3, 9):
        for total in range(1, 60):
            cut = list(parts(total, size))
            assert [start for start, _ in cut] == [0, *(end for _, end in cut[:-1])] and cut[-1][1] == total
            lengths = [end - start for start, end in cut]
            assert max(lengths) <= size and (min(lengths) > 1 or total == 1)
            assert len(cut) == -(-total // size)


def test_batch_norm_that_could_get_a_single_sample_is_refused():
    oracle = oracle_with(stack(nn.BatchNorm1d(8)), buffers="local")
    with pytest.raises(ConfigError, match="more than 1 value per channel.*method.batch_size to 2"):
        try_single_samples(oracle.loss, oracle.data, "mine:net")
    with pytest.raises(ConfigError, match="method.batch_size to 2 or more"):
        prepare(parse({**case("none", batch_size=1), "model": NORMALIZED}), torch.device("cpu"))
    prepare(parse({**case("none"), "model": NORMALIZED}), torch.device("cpu"))
