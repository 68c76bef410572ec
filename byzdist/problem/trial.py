"""A user's module is tried before anything starts: some samples go through it, forward and backward."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from byzdist.errors import ConfigError
from byzdist.problem.client_data import PooledData
from byzdist.problem.loss import Loss
from byzdist.problem.modules import advice, describing_errors, label, trained
from byzdist.problem.oracle import Oracle
from byzdist.problem.task import Batch, flat_logits, output_of
from byzdist.randomness import stream
from byzdist.rounds import Round

_TRIAL_SAMPLES = 3
_MOVE = 0.05  # distance from x^0 of the point where outputs are compared: at x^0 weights may be zero, and with them every output


class Refused(ConfigError):
    """Why a module cannot be trained."""


def try_out(loss: Loss, data: PooledData, classes: int, name: str) -> None:
    """Check that the gradient of the loss is what the methods assume: finite, and a function of x and the samples.

    Args:
        loss: the loss that has the module.
        data: some of its samples pass through the module.
        classes: how many classes the data have; 0 where private data do not say.
        name: of the module in the configuration.

    Raises:
        ConfigError: in a sentence that names the module and, if one is at fault, the layer.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            batch, samples = data.first(_TRIAL_SAMPLES)
            if isinstance(batch, tuple) and all(isinstance(part, Tensor) for part in batch):
                _Trial(loss, data, batch, classes, name).run()
            else:  # the batch is of the user's own form
                _take_one_step(loss, batch, samples, name)
        except Refused as problem:
            raise ConfigError(f"model: {name!r} {problem}") from None
        finally:
            loss.flat.unbind()
            if loss.buffers == "local":  # private data would leave each rank with buffers that no other has
                loss.load_buffers({})


def try_single_samples(loss: Loss, data: PooledData, name: str) -> None:
    """Check that a module whose buffers are its clients' own can train on a batch of one sample.

    Raises:
        ConfigError: if it cannot, as batch norm of flat features.
    """
    batch, samples = data.first(1)
    try:
        with torch.random.fork_rng(devices=[]):
            _take_one_step(loss, batch, samples, name)
    except ConfigError as error:
        raise ConfigError(
            f"{error} A batch may have a single sample: set method.batch_size to 2 or more, and give each client 2 samples or more."
        ) from None
    finally:
        loss.flat.unbind()
        loss.load_buffers({})


def _take_one_step(loss: Loss, batch: Batch, samples: int, name: str) -> None:
    gradient = loss.flat.initial().zero_()
    with describing_errors(name, "the loss of a batch", lambda: ""):
        loss.add_gradients((loss.flat.initial(),), batch, samples, 1.0, gradient, seed=0)
    if not bool(gradient.isfinite().all()):
        raise Refused("has a gradient that is not finite at its start.")


class _Trial:
    def __init__(self, loss: Loss, data: PooledData, batch: Batch, classes: int, name: str) -> None:
        self._loss, self._data, self._classes, self._name, self._model = loss, data, classes, name, loss.model
        self._features, self._labels = batch
        # A GPU rounds convolutions to ten bits, and the rounding depends on the batch's size.
        self._tolerance = 1e-2 if loss.device.type != "cpu" else torch.finfo(loss.dtype).eps ** 0.5
        self._start = loss.flat.initial()
        step = torch.from_numpy(stream(0, "trial").standard_normal(loss.flat.dimension)) * _MOVE
        self._moved = self._start + step.to(self._start)

    def run(self) -> None:
        with torch.no_grad():
            self._look_at_outputs()
            self._compare_passes()
            self._compare_samples()
            self._compare_modes()
        self._look_at_loss()
        self._look_at_gradients()
        self._compare_closed_forms()

    def _pass(self, x: Tensor, features: Tensor) -> tuple[Tensor, "_Steps"]:
        """Return the module's output at x, uncompiled, and what its layers gave."""
        self._loss.flat.bind(x)
        with _Steps(self._model) as steps, describing_errors(self._name, _shape("features", features), steps.place):
            output = self._model(features)
        try:
            return output_of(lambda _: output, features), steps
        except TypeError:
            raise Refused(
                f"returns a {type(output).__name__}; its forward must return its outputs, a tensor, or a tuple that begins with it, or "
                "something with `logits`."
            ) from None

    def _look_at_outputs(self) -> None:
        few = len(self._features)
        for b in (1, few) if self._loss.buffers != "local" else (few,):  # see `_look_at_loss`
            features = self._features[:b].clone()
            output, steps = self._pass(self._start, features)
            if not torch.equal(features, self._features[:b]):
                raise Refused("changes the features that it is given, and with them the data. Let it work on a copy.")
            if not output.is_floating_point():
                raise Refused(f"returns {output.dtype}, not the logits: numbers of which the loss has a gradient.")
            if self._loss.task.target == "classes":
                self._look_at_logits(output, b)
            if not bool(output.isfinite().all()):
                raise Refused(f"returns numbers that are not finite at its start; first {steps.first_bad()}.")

    def _look_at_logits(self, output: Tensor, b: int) -> None:
        """Check the shape of a classifier's output for b samples."""
        classes, own_loss = self._classes, self._loss.declared.loss is not None
        logits = flat_logits(output)
        may_be_one = classes in (0, 2) or own_loss
        wanted = f"[{b}, {classes or 'classes'}]" + (f" or [{b}]" if may_be_one else "")
        one_logit = logits.ndim == 1 and may_be_one
        if logits.ndim not in (1, 2) or len(logits) != b or (logits.ndim == 1) != one_logit:
            raise Refused(f"returns logits of shape {list(output.shape)} for {b} of the samples; want {wanted}.")
        if own_loss or logits.ndim == 1:
            return
        if logits.shape[1] < classes:
            raise Refused(f"has {logits.shape[1]} outputs, and the data have {classes} classes; want {wanted}.")
        if b == 1:
            if logits.shape[1] > classes > 0:
                advice.warning(
                    "model: %r has %d outputs, and the data have %d classes.", self._name, logits.shape[1], classes
                )
        elif self._looks_like_probabilities(logits):
            advice.warning(
                "model: %r returns what looks like probabilities. The loss wants logits: leave the last softmax out.",
                self._name,
            )

    def _looks_like_probabilities(self, logits: Tensor) -> bool:
        sums = logits.sum(1)
        return bool((logits >= 0).all() and torch.allclose(sums, torch.ones_like(sums), rtol=self._tolerance))

    def _compare_passes(self) -> None:
        """Refuse what differs from one pass to the next, as random draws and counters do."""
        (first, before), (second, after) = (self._pass(self._moved, self._features.clone()) for _ in range(2))
        if not torch.equal(first.nan_to_num(), second.nan_to_num()) and not self._close(first, second):
            raise Refused(
                f"gives another output when the same samples pass a second time, first "
                f"{before.first_other(after, self._close)}. Two gradients must see the same network: leave out what is random "
                "(F.dropout without training=self.training, say) or remembers earlier passes."
            )

    def _compare_samples(self) -> None:
        """Refuse outputs that depend on the other samples of the batch."""
        together, _ = self._pass(self._moved, self._features.clone())
        if together.shape[:1] != self._features.shape[:1] or self._loss.buffers == "local":
            return  # not one output per sample, or batch norm that the user has allowed
        for i in range(len(self._features)):
            alone, _ = self._pass(self._moved, self._features[i : i + 1].clone())
            if not self._close(alone[0], together[i]):
                raise Refused(
                    "gives a sample another output when others are in its batch. The loss of a client is the mean over its "
                    "samples, one by one: look for normalizations, sums or a softmax over the first axis."
                )

    def _compare_modes(self) -> None:
        """Refuse what a seed does not repeat while training, and running statistics; find out whether there is anything random."""
        buffers = {key: buffer.clone() for key, buffer in self._model.named_buffers()}
        self._loss.train(True)
        try:
            (first, before), (again, after), (other, _) = (self._seeded_pass(seed) for seed in (1, 1, 2))
        except ConfigError:
            return  # `_look_at_loss` has a better message
        finally:
            self._loss.train(False)
            changed = [key for key, b in self._model.named_buffers() if not torch.equal(b, buffers[key])]
            for key, buffer in self._model.named_buffers():
                buffer.copy_(buffers[key])
        if changed and self._loss.buffers != "local":
            raise Refused(
                f"changes its buffer {changed[0]!r} while it trains. Such state (running statistics, say) is not part of x, and "
                "clients cannot share it. Use layer or group norm (byzdist.swap_norms), or set model.buffers."
            )
        if not self._close(first, again) and self._loss.buffers != "local":
            raise Refused(
                f"is random in training mode in a way that torch's seed does not repeat, first {before.first_other(after, self._close)}. "
                "Two gradients must see the same network: draw with torch's global generator."
            )
        self._loss.is_random |= not self._close(first, other)

    def _seeded_pass(self, seed: int) -> tuple[Tensor, "_Steps"]:
        torch.manual_seed(seed)
        return self._pass(self._moved, self._features.clone())

    def _value(self, features: Tensor, labels: Tensor) -> Any:
        """Return the loss at the start."""
        output, _ = self._pass(self._start, features.clone())
        whose = "its own loss" if self._loss.declared.loss else "the task's loss"
        with describing_errors(self._name, f"{whose} of logits {list(output.shape)} and labels {list(labels.shape)}"):
            found = self._loss.task.loss(lambda _: output, (features, labels))
            return found[0] / found[1] if isinstance(found, tuple) else found

    def _look_at_loss(self) -> None:
        few = len(self._features) if self._loss.buffers == "local" else 1  # a batch norm cannot take one sample
        features, labels = self._features[:few], self._labels[:few]
        loss = self._value(features, labels)
        if not isinstance(loss, Tensor) or loss.ndim or not bool(loss.isfinite()):
            shape = f"of shape {list(loss.shape)}" if isinstance(loss, Tensor) and loss.ndim else f"({loss!r})"
            raise Refused(
                f"has a loss that is not a finite number {shape} at its start; it must be the mean over the batch."
            )
        if not loss.requires_grad:
            raise Refused(
                "has a loss that does not depend on its parameters: look for detach(), torch.no_grad(), .data, numpy or argmax "
                "on the way."
            )
        twice = self._value(features.repeat_interleave(2, 0), labels.repeat_interleave(2, 0))
        if not self._close(loss, twice):
            raise Refused(
                f"has a loss that is {float(loss):.6g} for a sample and {float(twice):.6g} for the same sample twice; it must be "
                "the mean over the batch."
            )

    def _look_at_gradients(self) -> None:
        gradient = torch.zeros_like(self._start)
        with describing_errors(self._name, "the way back", lambda: ""):
            self._loss.backward(self._start, (self._features, self._labels), len(self._labels), 1.0, gradient)
        for key, piece in self._loss.flat.pieces(gradient).items():
            if not bool(piece.isfinite().all()):
                raise Refused(f"has a gradient that is not finite at its start, that of its parameter {key!r}.")
        if names := self._out_of_reach():
            advice.warning(
                "model: the loss of %r does not depend on its parameter%s %s, which nothing but l2 will train. Leave out or "
                "freeze what is not used.",
                self._name,
                "" if len(names) == 1 else "s",
                ", ".join(map(repr, names)),
            )

    def _out_of_reach(self) -> list[str]:
        """Return the names of the parameters on which the loss does not depend."""
        loss = self._value(self._features, self._labels)
        named = trained(self._model)
        found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        return [key for key, gradient in zip(named, found, strict=True) if gradient is None]

    def _compare_closed_forms(self) -> None:
        """Refuse declared gradients that are not those of the forward and the loss."""
        loss, data, given = self._loss, self._data, self._loss.declared
        if loss.task.target != "classes":
            return
        oracle, (one, _) = Oracle(loss, data), next(iter(data.batches(0, np.array([0]), Round(0, 0))))
        few = self._features, self._labels
        for key, declared in (("add_gradient", given.add_gradient), ("add_difference", given.add_difference)):
            if declared is None:
                continue
            points = (self._moved,) if key == "add_gradient" else (self._moved, self._start)
            expected, expected_of_one, found, found_of_one = (torch.zeros_like(self._start) for _ in range(4))
            for point, sign in zip(points, (1, -1), strict=False):
                loss.backward(point, few, len(few[1]), sign * 0.5, expected)
                loss.backward(point, one, 1, sign, expected_of_one)
                expected_of_one.add_(point, alpha=2 * sign * loss.l2)
            with describing_errors(self._name, f"the arguments of its {key}"):
                declared(*points, *few, 0.5, found)
                if key == "add_gradient":
                    oracle.gradient(self._moved, 0, np.array([0]), found_of_one)
                else:
                    oracle.difference(self._moved, self._start, 0, np.array([0]), found_of_one)
            if not (self._close(found, expected) and self._close(found_of_one, expected_of_one)):
                raise Refused(
                    f"has an {key} that is not what its forward and its loss give by automatic differentiation."
                )

    def _close(self, first: Tensor, second: Tensor) -> bool:
        if first.shape != second.shape:
            return False
        finite = second.detach()[second.isfinite()].abs()
        size = max(1.0, float(finite.max())) if len(finite) else 1.0
        rtol = self._tolerance
        return torch.allclose(first, second, rtol=rtol, atol=rtol * size, equal_nan=True)


class _Steps:
    """What the layers of a module gave during a pass, in order, and which of them the pass is in."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._entered: list[str] = []
        self._seen: list[tuple[str, Tensor]] = []

    def __enter__(self) -> "_Steps":
        self._handles = []
        for layer, module in self._model.named_modules():
            if layer and not isinstance(module, torch.jit.ScriptModule):
                self._handles.append(module.register_forward_pre_hook(self._enter(label(layer, module))))
                self._handles.append(module.register_forward_hook(self._leave))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _enter(self, name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, given: Any) -> None:
            self._entered.append(name)
            self._keep(f"before {name}", given[0] if given else None)

        return hook

    def _leave(self, module: nn.Module, given: Any, output: Any) -> None:
        self._keep(f"in {self._entered.pop()}", output)

    def _keep(self, where: str, value: Any) -> None:
        if isinstance(value, Tensor):
            self._seen.append((where, value.detach().clone()))

    def place(self) -> str:
        """Return the innermost layer that was entered and not left."""
        return self._entered[-1] if self._entered else ""

    def first_bad(self) -> str:
        """Return the first place where something is not finite."""
        return next((where for where, value in self._seen if not value.isfinite().all()), "in its own forward")

    def first_other(self, other: "_Steps", close: Callable[[Tensor, Tensor], bool]) -> str:
        """Return the first place where something differs from another pass."""
        pairs = zip(self._seen, other._seen, strict=False)
        return next((where for (where, one), (_, two) in pairs if not close(one, two)), "in its own forward")


def _shape(what: str, features: Tensor) -> str:
    return f"{what} {list(features.shape)} in {str(features.dtype).removeprefix('torch.')}"
