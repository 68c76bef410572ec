"""A user's module is tried before anything starts: what cannot be trained is refused in a sentence, the rest trains."""

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
from byzdist.errors import ConfigError
from byzdist.problem import models, trial
from byzdist.problem.data import Dataset, Split
from byzdist.problem.oracle import Oracle
from byzdist.runtime.experiment import prepare
from byzdist.storage.export import load_model, save_model
from tests.cases import BASE, case
from tests.inprocess import train
from tests.unit.problem.test_models import CASES

HERE = "tests.unit.problem.test_modules"
CPU = torch.device("cpu")


def config(name, classes=2, **more):
    data = {**BASE["data"], "classes": classes}
    return {**BASE, "data": data, "model": {"name": f"{HERE}:{name}", **more}, "dtype": "float64"}


class Net(nn.Module):
    """Two layers; a case overrides what it is about."""

    def __init__(self, feature_shape, classes):
        super().__init__()
        self.first, self.second = nn.Linear(feature_shape[0], 5), nn.Linear(5, classes)
        self.prepare(feature_shape[0], classes)

    def prepare(self, features, classes):
        pass

    def forward(self, features):
        return self.second(torch.tanh(self.first(features)))


# --- what cannot work ------------------------------------------------------------------------------------------------


class Raises(Net):
    def prepare(self, features, classes):
        self.second = nn.Linear(6, classes)


class RaisesItself(Net):
    def forward(self, features):
        raise KeyError("nothing here")


class WantsMore(Net):
    def forward(self, features, mask):
        return super().forward(features)


class OtherDtype(Net):
    def forward(self, features):
        return super().forward(features.float())


class WantsImages(Net):
    def prepare(self, features, classes):
        self.first = nn.Conv2d(1, 2, 3)


class Tuple(Net):
    def forward(self, features):
        return super().forward(features), features


class Dictionary(Net):
    def forward(self, features):
        return {"logits": super().forward(features)}


class Classes(Net):
    def forward(self, features):
        return super().forward(features).argmax(1)


class TooFew(Net):
    def prepare(self, features, classes):
        self.second = nn.Linear(5, classes - 1)


class OneOutput(Net):
    def prepare(self, features, classes):
        self.second = nn.Linear(5, 1)


class Squeezed(Net):
    def prepare(self, features, classes):
        self.second = nn.Linear(5, 1)

    def forward(self, features):
        return super().forward(features).squeeze()


class NoBatch(Net):
    def forward(self, features):
        return super().forward(features).sum(0)


class Nan(Net):
    def prepare(self, features, classes):
        self.second = nn.Sequential(nn.Linear(5, classes), Root())


class Root(nn.Module):
    def forward(self, features):
        return (-1 - features.abs()).sqrt()


class NanGradient(Net):
    def prepare(self, features, classes):
        nn.init.zeros_(self.first.weight), nn.init.zeros_(self.first.bias)

    def forward(self, features):
        return self.second(self.first(features).abs().sqrt())


class ChangesInput(Net):
    def forward(self, features):
        return super().forward(features.sub_(1.0))


class InPlace(Net):
    def forward(self, features):
        return super().forward(nn.functional.relu(features, inplace=True))


class Detached(Net):
    def forward(self, features):
        return super().forward(features).detach()


class NoGrad(Net):
    @torch.no_grad()
    def forward(self, features):
        return super().forward(features)


class FunctionalDropout(Net):
    def forward(self, features):
        return self.second(F.dropout(self.first(features)))


class PoliteDropout(Net):
    def forward(self, features):
        return self.second(F.dropout(self.first(features), training=self.training))


class AttentionDropout(Net):
    def prepare(self, features, classes):
        self.first = nn.MultiheadAttention(features, 2, dropout=0.3, batch_first=True)

    def forward(self, features):
        return (
            features.sum(1, keepdim=True)
            * self.first(features[:, None], features[:, None], features[:, None])[0][:, 0, :2]
        )


class Noise(nn.Module):
    def forward(self, features):
        return features + 0.1 * torch.randn_like(features)


class NoisyLayer(Net):
    def prepare(self, features, classes):
        self.noise = Noise()

    def forward(self, features):
        return self.second(self.noise(self.first(features)))


class NumpyNoise(Net):
    def forward(self, features):
        return super().forward(features) * np.random.default_rng().random()


class Counts(Net):
    def prepare(self, features, classes):
        self.passes = 0

    def forward(self, features):
        self.passes += 1
        return super().forward(features) / self.passes


class Normed(Net):
    def prepare(self, features, classes):
        self.norm = nn.BatchNorm1d(5)


class NormedByTheBatch(Net):
    def prepare(self, features, classes):
        self.norm = nn.BatchNorm1d(5, track_running_stats=False)


class SoftmaxOverTheBatch(Net):
    def forward(self, features):
        return super().forward(features).softmax(0)


class CentredByTheBatch(Net):
    def forward(self, features):
        return super().forward(features - features.mean(0))


class Moving(Net):
    def prepare(self, features, classes):
        self.register_buffer("seen", torch.zeros(features))

    def forward(self, features):
        if self.training:
            self.seen.mul_(0.9).add_(features.mean(0), alpha=0.1)
        return super().forward(features - self.seen)


class Dropout(Net):
    def prepare(self, features, classes):
        self.second = nn.Sequential(nn.Dropout(0.2), self.second)


class Listed(Net):
    def prepare(self, features, classes):
        self.rest = [nn.Linear(5, 5), nn.Linear(5, 5)]


class Loose(Net):
    def prepare(self, features, classes):
        self.scale = torch.ones(classes, requires_grad=True)

    def forward(self, features):
        return super().forward(features) * self.scale


class Complex(Net):
    def prepare(self, features, classes):
        self.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))


class OnMeta(Net):
    def prepare(self, features, classes):
        self.second = nn.Linear(5, classes, device="meta")


class AllFrozen(Net):
    def prepare(self, features, classes):
        self.requires_grad_(False)


class Nothing(nn.Module):
    def __init__(self, feature_shape, classes):
        super().__init__()

    def forward(self, features):
        return features[:, :2]


class OneMemory(Net):
    def prepare(self, features, classes):
        self.third = nn.Linear(5, classes)
        self.third.weight = nn.Parameter(self.second.weight.data)


class SumLoss(Net):
    def byzdist_loss(self, logits, labels):
        return F.cross_entropy(logits, labels, reduction="sum")


class VectorLoss(Net):
    def byzdist_loss(self, logits, labels):
        return F.cross_entropy(logits, labels, reduction="none")


class NumberLoss(Net):
    def byzdist_loss(self, logits, labels):
        return F.cross_entropy(logits, labels).item()


class RaisingLoss(Net):
    def byzdist_loss(self, logits, labels):
        return F.mse_loss(logits, F.one_hot(labels, 9).double())


class NegativeL2(Net):
    byzdist_l2 = -1.0


class LayerAsL2(Net):
    def prepare(self, features, classes):
        self.byzdist_l2 = nn.Linear(5, 5)


class WrongConvex(Net):
    byzdist_convex = "yes"


class WrongLoss(Net):
    byzdist_loss = "cross_entropy"


class WrongClosedForm(models.LogisticRegression):
    """Somebody builds on our class and changes the forward alone."""

    def __init__(self, feature_shape, classes):
        super().__init__(feature_shape, classes)

    def forward(self, features):
        return super().forward(torch.tanh(features))


class TorchOnlyClosedForm(Net):
    """Small batches come as numpy arrays."""

    def byzdist_add_gradient(self, x, features, labels, scale, out):
        assert isinstance(features, torch.Tensor)
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


class WrongDifference(Net):
    def byzdist_add_difference(self, x_new, x_old, features, labels, scale, out):
        out.add_(x_new - x_old)


class LazyUnused(Net):
    def prepare(self, features, classes):
        self.spare = nn.LazyLinear(3)


class LazyRaises(Net):
    def prepare(self, features, classes):
        self.first, self.second = nn.LazyLinear(6), nn.Linear(5, classes)


def fails(feature_shape, classes):
    return nn.Linear(feature_shape[1], classes)


def a_class(feature_shape, classes):
    return Net


def a_pair(feature_shape, classes):
    return Net(feature_shape, classes), F.cross_entropy


WRONG = [
    (
        "Raises",
        2,
        r"cannot take features \[1, 12\] in float64: its layer 'second' \(Linear\) raises RuntimeError: mat1 and mat2",
    ),
    ("RaisesItself", 2, r"cannot take features .*: it raises KeyError: 'nothing here' \(test_modules.py, line \d+\)"),
    ("WantsMore", 2, r"cannot take features .* raises TypeError: .*'mask'"),
    ("OtherDtype", 2, r"cannot take features .* in float64: its layer 'first' \(Linear\) raises RuntimeError"),
    ("WantsImages", 2, r"cannot take features \[1, 12\] .*: its layer 'first' \(Conv2d\) raises"),
    ("Tuple", 2, r"returns a tuple; its forward must return the logits alone"),
    ("Dictionary", 2, r"returns a dict; its forward must return the logits alone"),
    ("Classes", 2, r"returns torch.int64, not the logits"),
    ("TooFew", 4, r"has 3 outputs, and the data have 4 classes; want \[1, 4\]"),
    ("OneOutput", 3, r"returns logits of shape \[1, 1\] for 1 of the samples; want \[1, 3\]"),
    ("Squeezed", 2, r"returns logits of shape \[\] for 1 of the samples; want \[1, 2\] or \[1\]"),
    ("NoBatch", 3, r"returns logits of shape \[3\] for 1 of the samples; want \[1, 3\]"),
    ("Nan", 2, r"returns numbers that are not finite at its start; first in layer 'second.1' \(Root\)"),
    ("NanGradient", 2, r"has a gradient that is not finite at its start, that of its parameter 'first.weight'"),
    ("ChangesInput", 2, r"changes the features that it is given"),
    ("InPlace", 2, r"changes the features that it is given"),
    ("Detached", 2, r"has a loss that does not depend on its parameters"),
    ("NoGrad", 2, r"has a loss that does not depend on its parameters"),
    (
        "FunctionalDropout",
        2,
        r"gives another output when the same samples pass a second time, first before layer 'second' \(Linear\)\. .*F.dropout",
    ),
    ("PoliteDropout", 2, r"is random in training mode, first before layer 'second' .*as dropout is"),
    ("AttentionDropout", 2, r"is random in training mode"),
    (
        "NoisyLayer",
        2,
        r"gives another output when .* second time, first in layer 'noise' \(Noise\)",
    ),
    ("NumpyNoise", 2, r"gives another output when the same samples pass a second time"),
    ("Counts", 2, r"gives another output when the same samples pass a second time"),
    ("Normed", 2, r"has batch norm, layer 'norm' \(BatchNorm1d\)"),
    ("NormedByTheBatch", 2, r"has batch norm, layer 'norm' \(BatchNorm1d\)"),
    ("SoftmaxOverTheBatch", 3, r"gives a sample another output when others are in its batch"),
    ("CentredByTheBatch", 2, r"gives a sample another output when others are in its batch"),
    ("Moving", 2, r"changes its buffer 'seen' while it trains"),
    ("Dropout", 2, r"has dropout, layer 'second.0' \(Dropout\)"),
    ("Listed", 2, r"keeps layers in 'rest' of Listed, a list, where torch does not see .*nn.ModuleList"),
    ("Loose", 2, r"has a tensor 'scale' in Loose that wants gradients and is no nn.Parameter"),
    ("Complex", 2, r"has a parameter 'phase' that is complex"),
    ("OnMeta", 2, r"has a parameter 'second.weight' that has no values"),
    ("AllFrozen", 2, r"there is nothing to train in .*: they are all frozen"),
    ("Nothing", 2, r"there is nothing to train in .*: it has no parameters"),
    ("OneMemory", 2, r"has two parameters in one piece of memory, '(second|third).weight' and '(second|third).weight'"),
    ("SumLoss", 2, r"has a loss that is [\d.]+ for a sample and [\d.]+ for the same sample twice; it must be the mean"),
    ("VectorLoss", 2, r"has a loss that is no finite number of shape \[1\]"),
    ("NumberLoss", 2, r"has a loss that is no finite number \([\d.]+\)"),
    ("RaisingLoss", 2, r"cannot take its own loss of logits \[1, 2\] and labels \[1\]: it raises RuntimeError"),
    ("NegativeL2", 2, r"has a byzdist_l2 that is no number of at least 0 \(it is -1.0\)"),
    ("LayerAsL2", 2, r"has a byzdist_l2 that is no number"),
    ("WrongConvex", 2, r"has a byzdist_convex that is neither true nor false \(it is 'yes'\)"),
    ("WrongLoss", 2, r"has a byzdist_loss that is no function of \(logits, labels\)"),
    ("WrongClosedForm", 2, r"has an add_gradient that is not what its forward and its loss give"),
    ("TorchOnlyClosedForm", 2, r"cannot take the arguments of its add_gradient: it raises AssertionError"),
    ("WrongDifference", 2, r"has an add_difference that is not what its forward and its loss give"),
    ("LazyUnused", 2, r"never uses its lazy layer 'spare' \(LazyLinear\)"),
    ("LazyRaises", 2, r"cannot take two samples of zeros, \[2, 12\]: it raises RuntimeError"),
    (
        "fails",
        2,
        r"cannot be made for features of shape \[12\] and 2 classes: IndexError: .*\(test_modules.py, line \d+\)",
    ),
    ("a_class", 2, r"makes the class Net, not a torch module"),
    ("a_pair", 2, r"makes a tuple, not a torch module"),
]


@pytest.mark.parametrize(("name", "classes", "complaint"), WRONG, ids=[name for name, _, _ in WRONG])
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_trained_is_refused_before_anything_starts(name, classes, complaint):
    with pytest.raises(ConfigError) as refusal:
        prepare(parse(config(name, classes)), CPU)
    message = str(refusal.value)
    assert re.match(rf"model: ('{HERE}:{name}' )?{complaint}", message), message
    assert HERE in message and "\n" not in message and message.endswith(".")


# --- what works --------------------------------------------------------------------------------------------------------


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


RIGHT = ["Net", "LayersOfLikelyNames", "OneColumn", "HalfFrozen", "Tied", "Lazy", "ConstantBuffer", "SharedList"]
RIGHT += ["Teacher", "other_default"]


@pytest.mark.parametrize("name", RIGHT)
def test_what_works_trains_to_a_model_that_loads_strictly(name, tmp_path):
    run = train({**config(name), "rounds": 12, "attack": {"name": "none"}}, tmp_path)
    assert run.metrics[-1]["loss"] < run.metrics[0]["loss"]
    model = run.experiment.oracle.model
    save_model(model, run.x, tmp_path, 12)
    assert torch.get_default_dtype() == torch.float32
    make = (
        Net if name in ("compiled", "CompiledLayer", "other_default") else globals()[name]
    )  # keys are those of plain layers
    fresh, again = make((12,), 2), make((12,), 2)
    fresh.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), strict=True)
    again.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    features = run.experiment.oracle.features
    expected = run.experiment.oracle.logits(run.x, features)
    for loaded in (fresh, again):
        output = loaded.double()(features).detach()
        output = output.squeeze(1) if output.shape[1] == 1 else output
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)  # a fresh module is in float32 at first
    round_, x = load_model(model, tmp_path)
    assert round_ == 12 and torch.equal(x, run.x)


def oracle_of(module, samples=30, features=6, classes=2):
    generator = np.random.default_rng(0)
    dataset = Dataset(
        "t",
        generator.standard_normal((samples, features)),
        generator.integers(classes, size=samples),
        None,
        None,
        classes,
    )
    return Oracle(module, dataset, Split(samples, 2, None))


def test_frozen_parameters_are_no_part_of_x_and_stay_put_under_l2():
    module = HalfFrozen((6,), 2)
    before = module.first.weight.detach().clone()
    oracle = oracle_of(module)
    assert oracle.dimension == 5 * 2 + 2 and oracle.l2 == 0.5
    x, out = oracle.initial(), oracle.initial()
    for _ in range(3):
        oracle.gradient(x, 0, None, out)
        x -= 0.1 * out
    assert torch.equal(module.first.weight, before.double())


def test_tied_weights_count_once_with_the_sum_of_their_gradients():
    oracle = oracle_of(Tied((6,), 2))
    assert oracle.dimension == (6 * 5 + 5) + (5 * 2 + 2) + (5 * 5 + 5)
    x, out = oracle.initial(), oracle.initial()
    oracle.gradient(x, 0, None, out)
    first, second, between = x.split([35, 12, 30])

    def loss(weight):  # written out, with the tied matrix as one variable
        hidden = oracle.features @ first[:30].view(5, 6).T + first[30:]
        hidden = torch.tanh(hidden @ weight.view(5, 5).T + between[25:])
        logits = torch.tanh(hidden @ weight.view(5, 5).T) @ second[:10].view(2, 5).T + second[10:]
        return F.cross_entropy(logits, oracle.labels) + 0.1 * weight.square().sum()

    expected = torch.func.grad(loss)(between[:25].clone())
    torch.testing.assert_close(out[47:72], expected, rtol=1e-10, atol=1e-12)


def test_a_column_of_logits_is_one_logit_a_sample():
    column = oracle_of(OneColumn((6,), 2))
    x = column.initial() + 0.2
    assert column.logits(x, column.features).shape == (30,)
    hidden = torch.tanh(column.features @ x[:30].view(5, 6).T + x[30:35])
    scores = hidden @ x[35:40] + x[40]
    signs = 2 * column.labels - 1
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
    oracle = oracle_of(Declares((6,), 2))
    assert oracle.l2 == 0.25 and oracle.declared.convex
    logits, labels = torch.tensor([[1.0, 5.0], [3.0, 5.0]]), torch.tensor([0, 1])
    assert float(oracle.loss(logits, labels)) == 2.5


def test_a_loss_of_another_form_is_not_used_and_said(caplog):
    class Lightning(Net):
        def loss(self, batch):
            raise AssertionError

    class Criterion(Net):
        def prepare(self, features, classes):
            self.loss = nn.MSELoss()

    for kind in (Lightning, Criterion):
        caplog.clear()
        oracle = oracle_of(kind((6,), 2))
        assert oracle.loss is models.cross_entropy
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
        prepare(parse(config(name, 3)), CPU)
    messages = [message for message in caplog.messages if message.startswith("model")]
    assert len(messages) == 1 and re.search(ADVICE[name], messages[0]), messages


@pytest.mark.parametrize("name", ["Net", "Tied", "ConstantBuffer"])
def test_the_trial_leaves_no_trace(name):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    oracle = prepare(parse(config(name)), CPU).oracle
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not oracle.model.training and all(parameter.grad is None for parameter in oracle.model.parameters())
    flat = torch.cat([parameter.detach().flatten() for parameter in oracle.model.parameters()])
    assert torch.equal(flat, oracle.initial())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in oracle.model.modules())


@pytest.mark.parametrize(("spec", "shape", "classes", "_"), [c for c in CASES if c[0]["name"] != "resnet18"])
def test_our_own_models_pass_their_trial(spec, shape, classes, _):
    generator = np.random.default_rng(1)
    dataset = Dataset("t", generator.standard_normal((4, *shape)), np.arange(4) % classes, None, None, classes)
    oracle = Oracle(models.build({**spec, "l2": 0.1}, shape, classes, 0), dataset, Split(4, 2, None))
    trial.try_out(oracle, spec["name"])


def test_a_compiled_module_runs_compiled_and_counts_as_the_module_within(tmp_path):
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    module = Net((6,), 2)
    plain, quick = oracle_of(Net((6,), 2)), oracle_of(torch.compile(module, backend=backend))
    assert quick.model is module and quick.dimension == plain.dimension
    x, one, two = plain.initial(), plain.initial(), plain.initial()
    for step in itertools.islice(itertools.count(), 3):  # at several points, each in memory of its own
        at = x + 0.1 * step
        plain.gradient(at, 0, None, one)
        quick.gradient(at, 0, None, two)
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)
    assert calls
    save_model(quick.model, x, tmp_path, 0)
    Net((6,), 2).load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), strict=True)


def test_a_compiled_layer_has_the_keys_of_the_layer(tmp_path):
    module = Net((6,), 2)
    module.first = torch.compile(module.first, backend="eager")
    oracle = oracle_of(module)
    save_model(oracle.model, oracle.initial(), tmp_path, 0)
    plain = Net((6,), 2)
    plain.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), strict=True)
    assert torch.equal(plain.first.weight.double().flatten(), oracle.initial()[:30].float().double())
    assert torch.equal(load_model(oracle.model, tmp_path)[1], oracle.initial())


def test_a_model_of_tied_weights_has_all_its_names_in_its_file(tmp_path):
    run = train({**case("none"), **config("Tied"), "rounds": 2}, tmp_path)
    save_model(run.experiment.oracle.model, run.x, tmp_path, 2)
    tensors = load_file(tmp_path / "model.safetensors")
    assert torch.equal(tensors["between.weight"], tensors["again.weight"])
