"""A user's own modules that work: they train to a model that loads strictly, and warnings say what is odd about them."""

import itertools
import logging
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from byzdist.config.reading import parse
from byzdist.problem import models, trial
from byzdist.problem.data import Dataset, Split
from byzdist.problem.task import output_of
from byzdist.problem.tasks.classification import CLASSIFICATION
from byzdist.runtime.experiment import prepare
from byzdist.storage.export import load_model, save_model
from tests.support.cases import case
from tests.support.inprocess import train
from tests.support.problem import oracle_of
from tests.unit.problem.nets import Net, config
from tests.unit.problem.test_models import CASES

HERE = "tests.unit.problem.test_modules"
CPU = torch.device("cpu")


class LayersOfLikelyNames(Net):
    """Layers called what our settings used to be called."""

    def prepare(self, features, classes):
        self.l1, self.l2, self.loss = nn.Linear(features, 4), nn.Linear(4, 5), nn.Linear(5, 5)
        self.convex, self.hessian = nn.Identity(), nn.Linear(5, 5)
        self.first = nn.Sequential(self.l1, self.l2, self.loss, self.convex, self.hessian)


class OneColumn(Net):
    def prepare(self, features, classes):
        self.second = nn.Linear(5, 1)


class HalfFrozen(Net):
    byzdist_l2 = 0.5

    def prepare(self, features, classes):
        self.first.requires_grad_(False)


class Tied(Net):
    byzdist_l2 = 0.1

    def prepare(self, features, classes):
        self.between = nn.Linear(5, 5)
        self.again = nn.Linear(5, 5, bias=False)
        self.again.weight = self.between.weight

    def forward(self, features):
        return self.second(torch.tanh(self.again(torch.tanh(self.between(self.first(features))))))


class Lazy(Net):
    def prepare(self, features, classes):
        self.first, self.second = nn.LazyLinear(5), nn.LazyLinear(classes)


class ConstantBuffer(Net):
    def prepare(self, features, classes):
        self.register_buffer("mean", torch.full((features,), 0.3))
        self.register_buffer("table", torch.arange(3))

    def forward(self, features):
        return super().forward(features - self.mean)


class SharedList(Net):
    """A list of layers that torch knows by other names."""

    def prepare(self, features, classes):
        self.steps = [self.first, nn.Tanh(), self.second]

    def forward(self, features):
        for step in self.steps:
            features = step(features)
        return features


class Teacher(Net):
    """Keeps a frozen module where torch does not see it, on purpose."""

    def prepare(self, features, classes):
        self.teacher = [nn.Linear(features, features).double().requires_grad_(False)]
        nn.init.eye_(self.teacher[0].weight), nn.init.zeros_(self.teacher[0].bias)

    def forward(self, features):
        return super().forward(self.teacher[0](features))


def other_default(feature_shape, classes):
    torch.set_default_dtype(torch.float64)
    return Net(feature_shape, classes)


class ClosedForm(Net):
    """With a gradient of its own, by functions of torch alone: batches are tensors, however small."""

    def byzdist_add_gradient(self, x, features, labels, scale, out):
        weights = dict(
            zip(["first.weight", "first.bias", "second.weight", "second.bias"], x.split([60, 5, 10, 2]), strict=True)
        )

        def loss(weights):
            shaped = {key: piece.view_as(self.get_parameter(key)) for key, piece in weights.items()}
            return scale * F.cross_entropy(
                torch.func.functional_call(self, shaped, (features,)), labels, reduction="sum"
            )

        gradients = torch.func.grad(loss)(weights)
        out.add_(torch.cat(list(gradients.values())))


class PoliteDropout(Net):
    def forward(self, features):
        return self.second(F.dropout(self.first(features), training=self.training))


class AttentionDropout(Net):
    def prepare(self, features, classes):
        self.first = nn.MultiheadAttention(features, 2, dropout=0.3, batch_first=True)

    def forward(self, features):
        attended = self.first(features[:, None], features[:, None], features[:, None])[0]
        return self.second(attended[:, 0, :5])


class Dropout(Net):
    def prepare(self, features, classes):
        self.second = nn.Sequential(nn.Dropout(0.2), self.second)


class Tuple(Net):
    def forward(self, features):
        return super().forward(features), features


class Dictionary(Net):
    def forward(self, features):
        return {"logits": super().forward(features)}


RIGHT = [
    "Net",
    "PoliteDropout",
    "AttentionDropout",
    "Dropout",
    "Tuple",
    "Dictionary",
    "ClosedForm",
    "LayersOfLikelyNames",
    "OneColumn",
    "HalfFrozen",
    "Tied",
    "Lazy",
    "ConstantBuffer",
    "SharedList",
]
RIGHT += ["Teacher", "other_default"]


@pytest.mark.parametrize("name", RIGHT)
def test_what_works_trains_to_a_model_that_loads_strictly(name, tmp_path):
    run = train({**config(f"{HERE}:{name}"), "rounds": 12, "attack": {"name": "none"}}, tmp_path)
    assert run.metrics[-1]["loss"] < run.metrics[0]["loss"]
    model = run.experiment.oracle.loss.model
    save_model(model, run.x, tmp_path, 12)
    assert torch.get_default_dtype() == torch.float32
    make = (
        Net if name in ("compiled", "CompiledLayer", "other_default") else globals()[name]
    )  # keys are those of plain layers
    fresh, again = make((12,), 2), make((12,), 2)
    fresh.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), strict=True)
    again.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    (features, _), _ = run.experiment.shared_data.first(90)
    expected = run.experiment.oracle.loss.outputs(run.x, features)
    for loaded in (fresh, again):
        output = output_of(loaded.double().eval(), features).detach()
        output = output.squeeze(1) if output.shape[1] == 1 else output
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)  # a fresh module is in float32 at first
    round_, x = load_model(model, tmp_path)
    assert round_ == 12 and torch.equal(x, run.x)


def make_oracle(module, samples=30, features=6, classes=2):
    generator = np.random.default_rng(0)
    dataset = Dataset(
        "t",
        generator.standard_normal((samples, features)),
        generator.integers(classes, size=samples),
        None,
        None,
        classes,
    )
    return oracle_of(module, dataset, Split(samples, 2, None))


def test_frozen_parameters_are_no_part_of_x_and_stay_put_under_l2():
    module = HalfFrozen((6,), 2)
    before = module.first.weight.detach().clone()
    oracle = make_oracle(module)
    assert oracle.dimension == 5 * 2 + 2 and oracle.loss.l2 == 0.5
    x, out = oracle.initial(), oracle.initial()
    for _ in range(3):
        oracle.gradient(x, 0, None, out)
        x -= 0.1 * out
    assert torch.equal(module.first.weight, before.double())


def test_tied_weights_count_once_with_the_sum_of_their_gradients():
    oracle = make_oracle(Tied((6,), 2))
    assert oracle.dimension == (6 * 5 + 5) + (5 * 2 + 2) + (5 * 5 + 5)
    x, out = oracle.initial(), oracle.initial()
    oracle.gradient(x, 0, None, out)
    first, second, between = x.split([35, 12, 30])

    def loss(weight):  # written out, with the tied matrix as one variable
        hidden = oracle.data.features @ first[:30].view(5, 6).T + first[30:]
        hidden = torch.tanh(hidden @ weight.view(5, 5).T + between[25:])
        logits = torch.tanh(hidden @ weight.view(5, 5).T) @ second[:10].view(2, 5).T + second[10:]
        return F.cross_entropy(logits, oracle.data.targets) + 0.1 * weight.square().sum()

    expected = torch.func.grad(loss)(between[:25].clone())
    torch.testing.assert_close(out[47:72], expected, rtol=1e-10, atol=1e-12)


def test_a_column_of_logits_is_one_logit_a_sample():
    column = make_oracle(OneColumn((6,), 2))
    x = column.initial() + 0.2
    assert column.loss.outputs(x, column.data.features).shape == (30,)
    hidden = torch.tanh(column.data.features @ x[:30].view(5, 6).T + x[30:35])
    scores = hidden @ x[35:40] + x[40]
    signs = 2 * column.data.targets - 1
    out = column.initial()
    column.gradient(x, 0, None, out)
    weights = -signs * torch.sigmoid(-signs * scores) / 30  # the derivative of log(1 + exp(-y s))
    torch.testing.assert_close(out[35:40], weights @ hidden, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("prefix", ["", "byzdist_"])
def test_settings_are_declared_by_our_names_and_old_ones_count_where_they_are_clear(prefix):
    def loss(self, logits, labels):
        return (logits[:, 0] - labels).square().mean()

    class Declares(Net):
        pass

    setattr(Declares, f"{prefix}loss", loss)
    setattr(Declares, f"{prefix}l2", 0.25)
    setattr(Declares, f"{prefix}convex", True)
    oracle = make_oracle(Declares((6,), 2))
    assert oracle.loss.l2 == 0.25 and oracle.loss.declared.convex
    logits, labels = torch.tensor([[1.0, 5.0], [3.0, 5.0]]), torch.tensor([0, 1])
    assert float(oracle.loss.task.loss(lambda _: logits, (None, labels))) == 2.5


def test_a_loss_of_another_form_is_not_used_and_said(caplog):
    class Lightning(Net):
        def loss(self, batch):
            raise AssertionError

    class Criterion(Net):
        def prepare(self, features, classes):
            self.loss = nn.MSELoss()

    for kind in (Lightning, Criterion):
        caplog.clear()
        oracle = make_oracle(kind((6,), 2))
        assert oracle.loss.task is CLASSIFICATION
        assert "has a `loss` that is not used; the cross-entropy is" in caplog.text


ADVICE = {
    "Unused": r"does not depend on its parameters 'spare.weight', 'spare.bias'",
    "Softmaxed": r"returns what looks like probabilities",
    "Wide": r"has 7 outputs, and the data have 3 classes",
}


class Unused(Net):
    def prepare(self, features, classes):
        self.spare = nn.Linear(3, 3)


class Softmaxed(Net):
    def forward(self, features):
        return super().forward(features).softmax(1)


class Wide(Net):
    def prepare(self, features, classes):
        self.second = nn.Linear(5, 7)


@pytest.mark.parametrize("name", ADVICE)
def test_what_works_and_is_hardly_meant_is_said_once(name, caplog):
    with caplog.at_level(logging.WARNING, logger="byzdist.config.checks"):
        prepare(parse(config(f"{HERE}:{name}", 3)), CPU)
    messages = [message for message in caplog.messages if message.startswith("model")]
    assert len(messages) == 1 and re.search(ADVICE[name], messages[0]), messages


@pytest.mark.parametrize("name", ["Net", "Tied", "ConstantBuffer"])
def test_the_trial_leaves_no_trace(name):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    oracle = prepare(parse(config(f"{HERE}:{name}")), CPU).oracle
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not oracle.loss.model.training and all(
        parameter.grad is None for parameter in oracle.loss.model.parameters()
    )
    flat = torch.cat([parameter.detach().flatten() for parameter in oracle.loss.model.parameters()])
    assert torch.equal(flat, oracle.initial())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in oracle.loss.model.modules())


@pytest.mark.parametrize(("spec", "shape", "classes", "_"), [c for c in CASES if c[0]["name"] != "resnet18"])
def test_our_own_models_pass_their_trial(spec, shape, classes, _):
    generator = np.random.default_rng(1)
    dataset = Dataset("t", generator.standard_normal((4, *shape)), np.arange(4) % classes, None, None, classes)
    oracle = oracle_of(models.build({**spec, "l2": 0.1}, shape, classes, 0), dataset, Split(4, 2, None))
    trial.try_out(oracle.loss, oracle.data, classes, spec["name"])


def test_a_compiled_module_runs_compiled_and_counts_as_the_module_within(tmp_path):
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    module = Net((6,), 2)
    plain, quick = make_oracle(Net((6,), 2)), make_oracle(torch.compile(module, backend=backend))
    assert quick.loss.model is module and quick.dimension == plain.dimension
    x, one, two = plain.initial(), plain.initial(), plain.initial()
    for step in itertools.islice(itertools.count(), 3):  # at several points, each in memory of its own
        at = x + 0.1 * step
        plain.gradient(at, 0, None, one)
        quick.gradient(at, 0, None, two)
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)
    assert calls
    save_model(quick.loss.model, x, tmp_path, 0)
    Net((6,), 2).load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), strict=True)


def test_a_compiled_layer_has_the_keys_of_the_layer(tmp_path):
    module = Net((6,), 2)
    module.first = torch.compile(module.first, backend="eager")
    oracle = make_oracle(module)
    save_model(oracle.loss.model, oracle.initial(), tmp_path, 0)
    plain = Net((6,), 2)
    plain.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), strict=True)
    assert torch.equal(plain.first.weight.double().flatten(), oracle.initial()[:30].float().double())
    assert torch.equal(load_model(oracle.loss.model, tmp_path)[1], oracle.initial())


def test_a_model_of_tied_weights_has_all_its_names_in_its_file(tmp_path):
    run = train({**case("none"), **config(f"{HERE}:Tied"), "rounds": 2}, tmp_path)
    save_model(run.experiment.oracle.loss.model, run.x, tmp_path, 2)
    tensors = load_file(tmp_path / "model.safetensors")
    assert torch.equal(tensors["between.weight"], tensors["again.weight"])
