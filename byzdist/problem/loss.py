"""The loss of a batch and its gradient, as functions of one flat vector: by closed form, or by automatic differentiation."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from byzdist.problem.flat import Flat
from byzdist.problem.modules import check, declared, draws_at_random, unwrapped
from byzdist.problem.task import Batch, Model, Task, flat_logits, output_of

Buffers = Literal["refuse", "frozen", "local"]
Precision = Literal["full", "bf16"]
_AS_IT_IS = nullcontext()


@dataclass(frozen=True)
class Measured:
    """The mean loss of a batch, over how many it is the mean, and the metrics' sums and counts."""

    loss: float
    count: float
    metrics: dict[str, tuple[float, float]]


class Loss:
    """What a module and a task make of samples and a vector x [d].

    Gradients depend on x and the samples only, bit for bit for a given number of threads.

    Args:
        model: see :mod:`byzdist.problem.models`; the loss owns it from now on, and moves it to ``device``.
        task: see :mod:`byzdist.problem.task`; a loss that the module declares takes the place of the task's.
        dtype: of x and of the gradients.
        name: the model's name in the configuration, for messages.
        buffers: what happens to running statistics and the like, which are not part of x: "refuse" such a module; "frozen": keep them
            as they are; "local": each client has its own, and a model is evaluated with the statistics of the batch.
        precision: "bf16" computes in bfloat16 where torch's autocast does; x and gradients keep their dtype.

    Attributes:
        is_random: whether the module draws at random while it trains, as dropout does.

    Raises:
        ConfigError: for a module whose gradient is not a function of x and the samples.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
        name: str = "",
        buffers: Buffers = "refuse",
        precision: Precision = "full",
    ) -> None:
        self._forward = model.eval()  # perhaps compiled by torch.compile
        self.model, name = unwrapped(model), name or type(model).__name__
        check(self.model, name, allow_batch_norm=buffers != "refuse")
        self.buffers, self._precision = buffers, precision
        self.is_random = draws_at_random(self.model)
        self.model.to(device=device, dtype=dtype)
        self.device, self.dtype = torch.device(device), dtype
        self.declared = declared(self.model, name)
        self.task = replace(task, loss=_of_logits(self.declared.loss)) if self.declared.loss else task
        self.flat = Flat(self.model)
        self._with_buffers = []
        if buffers != "refuse":
            self._with_buffers = [module for module in self.model.modules() if [*module.buffers(recurse=False)]]
            self._first_buffers = self.copy_buffers()
            self._settle()
        closed_forms = self.declared.add_gradient, self.declared.add_difference
        do_fit = task.target == "classes"  # other losses have other gradients
        self._closed_forms = closed_forms if do_fit else (None, None)
        self._counted: bool | None = None  # whether the task's loss is (sum, count); unknown before the first batch

    @property
    def l2(self) -> float:
        """The weight of the regularizer l2·‖x‖²."""
        return self.declared.l2

    @property
    def in_closed_form(self) -> bool:
        """Whether the module declares the gradient of its own loss or of the cross-entropy."""
        return self._closed_forms[0] is not None

    def train(self, training: bool) -> None:
        """Bring the module into training or evaluation mode, as far as the policy for buffers lets it."""
        if self._forward.training is not training:
            self._forward.train(training)
            self._settle()

    def _settle(self) -> None:
        for module in self._with_buffers:
            module.train(self.buffers == "local")

    def load_buffers(self, buffers: Mapping[str, Tensor]) -> None:
        """Give the module the buffers of a client; reset those that are not named to their initial values."""
        for key, buffer in self.model.named_buffers():
            buffer.copy_(buffers[key] if key in buffers else self._first_buffers[key])

    def copy_buffers(self) -> dict[str, Tensor]:
        """Return copies of the module's buffers by name."""
        return {key: buffer.clone() for key, buffer in self.model.named_buffers()}

    def chunk(self, columns: int) -> int:
        """Return how many samples of ``columns`` numbers to take at once: what fits a CPU's cache, or keeps a GPU busy."""
        small = self.device.type == "cpu"
        if self.in_closed_form:
            return max(1, (2**19 if small else 2**24) // columns)
        return 256 if small else 2048

    def is_counted(self, batch: Batch) -> bool:
        """Return whether the loss is a sum and a count, and not a mean over the batch."""
        if self._counted is None:
            if self.in_closed_form:
                self._counted = False
                return False
            before = self.copy_buffers() if self.buffers == "local" else None
            with torch.no_grad(), self._kept_random():
                self._counted = isinstance(self.task.loss(self._forward, batch), tuple)
            if before is not None:
                self.load_buffers(before)
        return self._counted

    def add_gradients(
        self,
        points: Sequence[Tensor],
        batch: Batch,
        samples: int,
        scale: float,
        out: Tensor,
        seed: int | None = None,
    ) -> float:
        """Add the gradient at the first point, minus that at the second if there is one, to out [d], without the regularizer.

        Args:
            points: one or two vectors [d].
            batch: what the task's loss takes.
            samples: how many samples the batch has.
            out: the gradient is added to it.
            scale: multiplies the SUM over the batch: samples times the mean, or the sum that the loss returns.
            seed: of what the module draws at random, the same at both points; None: it draws nothing.

        Returns:
            Over how many the sum is: the samples, or the count that the loss returns.
        """
        closed_form = self._closed_forms[len(points) - 1]
        if closed_form is not None:
            closed_form(*points, *batch, scale, out)
            return samples
        if len(points) == 2:
            self.add_gradients(points[:1], batch, samples, scale, out, seed)
            return self.add_gradients(points[1:], batch, samples, -scale, out, seed)
        if seed is None:
            found = self.backward(points[0], batch, samples, scale, out)
        else:
            with self._kept_random():
                torch.manual_seed(seed)
                found = self.backward(points[0], batch, samples, scale, out)
        return float(found[1]) if isinstance(found, tuple) else samples

    def measure(
        self, x: Tensor, batch: Batch, samples: int, scale: float = 1.0, gradient: Tensor | None = None
    ) -> Measured:
        """Return what the batch adds to loss and metrics at x; add scale times the sum of its gradients to ``gradient``."""
        self.train(False)
        model, closed_form = _Remembering(self._forward), self._closed_forms[0]
        if gradient is None or closed_form is not None:
            if gradient is not None and closed_form is not None:
                outputs = closed_form(x, *batch, scale, gradient)
                if outputs is not None:
                    model.remember(batch[0], outputs)
            self.flat.bind(x)
            with torch.no_grad(), self._autocast():
                found = self.task.loss(model, batch)
        else:
            found = self.backward(x, batch, samples, scale, gradient, model)
        total, count = found if isinstance(found, tuple) else (found, 1.0)
        with torch.no_grad(), self._autocast():
            divisor = float(count) or 1.0  # the count may be 0: a batch of padding, say
            loss = float(torch.as_tensor(total).detach()) / divisor
            metrics = {name: metric.measure(model, batch) for name, metric in self.task.metrics.items()}
        if self.buffers == "local":  # this batch has changed the statistics
            self.load_buffers({})
        sums = {name: (float(of_metric), float(counted)) for name, (of_metric, counted) in metrics.items()}
        return Measured(loss, float(count) if isinstance(found, tuple) else samples, sums)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._precision == "full":
            return _AS_IT_IS
        return torch.autocast(self.device.type, torch.bfloat16)

    def outputs(self, x: Tensor, inputs: Any) -> Tensor:
        """Return the module's outputs at x."""
        self.train(False)
        self.flat.bind(x)
        with torch.no_grad(), self._autocast():
            return flat_logits(output_of(self._forward, inputs))

    def _kept_random(self) -> AbstractContextManager[None]:
        """Restore torch's random states afterwards, on the CPU and on this device."""
        devices = [] if self.device.type == "cpu" else [self.device]
        return torch.random.fork_rng(devices, device_type=devices[0].type if devices else None)

    def backward(
        self, x: Tensor, batch: Batch, samples: int, scale: float, out: Tensor, model: Model | None = None
    ) -> Any:
        """Add the gradient at x to out by automatic differentiation; return what the task's loss returned.

        Arguments as for `add_gradients`; ``model`` is called in the module's place.
        """
        self.flat.bind(x)
        self.flat.bind_gradients(out)
        with self._autocast():
            found = self.task.loss(model or self._forward, batch)
        loss, weight = (found[0], scale) if isinstance(found, tuple) else (found, scale * samples)
        torch.autograd.backward(loss, loss.new_tensor(weight))  # adds to the gradients in place, that is to out
        return found


class _Remembering:
    """A model that computes the output of the same inputs only once."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._seen: list[tuple[Any, Any]] = []

    def remember(self, inputs: Any, output: Any) -> None:
        self._seen.append((inputs, output))

    def __call__(self, inputs: Any, *more: Any, **named: Any) -> Any:
        if more or named:
            return self._model(inputs, *more, **named)
        for seen, output in self._seen:
            if seen is inputs:
                return output
        output = self._model(inputs)
        self.remember(inputs, output)
        return output

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _of_logits(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Model, Batch], Tensor]:
    """Return the loss of a task, made of a module's own loss(logits, labels)."""
    return lambda model, batch: loss(flat_logits(output_of(model, batch[0])), batch[1])
