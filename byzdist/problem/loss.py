"""The loss of a batch and its gradient, as functions of one flat vector: by closed form, or by automatic differentiation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from byzdist.problem.flat import Flat
from byzdist.problem.modules import check, declared, unwrapped
from byzdist.problem.task import Batch, Model, Task, flat_logits, output_of


@dataclass(frozen=True)
class Measured:
    """The loss of a batch, over how many it is the mean, and the sums and counts of the metrics."""

    loss: float
    count: float
    metrics: dict[str, tuple[float, float]]


class Loss:
    """What a module and a task make of samples and a vector x [d].

    Gradients depend on x and the samples only, bit for bit for a given number of threads.

    Args:
        model: see :mod:`byzdist.problem.models`; it is taken over, and moved to ``device``.
        task: see :mod:`byzdist.problem.task`; a loss that the module declares takes the place of the task's.
        dtype: of x and of the gradients.
        name: of the model in the configuration, for messages.

    Raises:
        ConfigError: a module whose gradient is not a function of x and the samples.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
        name: str = "",
    ) -> None:
        self._forward = model.eval()  # perhaps what torch.compile made of the model
        self.model, name = unwrapped(model), name or type(model).__name__
        check(self.model, name)
        self.model.to(device=device, dtype=dtype)
        self.device, self.dtype = torch.device(device), dtype
        self.declared = declared(self.model, name)
        self.task = replace(task, loss=_of_logits(self.declared.loss)) if self.declared.loss else task
        self.flat = Flat(self.model)
        closed_forms = (self.declared.add_gradient, self.declared.add_difference)
        self._closed_forms = (
            closed_forms if task.target == "classes" else (None, None)
        )  # other losses have other gradients
        self._counted: bool | None = None  # whether the task's loss is (sum, count); unknown before the first batch

    @property
    def l2(self) -> float:
        """The weight of the regularizer l2·‖x‖²."""
        return self.declared.l2

    @property
    def in_closed_form(self) -> bool:
        """Whether the module declares the gradient of its own loss or of the cross-entropy."""
        return self._closed_forms[0] is not None

    def chunk(self, columns: int) -> int:
        """Return how many samples of so many numbers to take at once: what a CPU's cache holds, or what keeps a GPU busy."""
        small = self.device.type == "cpu"
        if self.in_closed_form:
            return max(1, (2**19 if small else 2**24) // columns)
        return 256 if small else 2048

    def is_counted(self, batch: Batch) -> bool:
        """Return whether the loss is a sum and a count in place of a mean over the batch."""
        if self._counted is None:
            with torch.no_grad():
                self._counted = not self.in_closed_form and isinstance(self.task.loss(self._forward, batch), tuple)
        return self._counted

    def add_gradients(self, points: Sequence[Tensor], batch: Batch, samples: int, scale: float, out: Tensor) -> float:
        """Add the gradient at the first point, minus that at the second where there is one, to out [d], without regularizer.

        Args:
            points: one or two vectors [d].
            batch: what the task's loss takes.
            samples: how many the batch has.
            out: is added to.
            scale: multiplies the SUM over the batch: samples times the mean, or the sum of a loss that is one.

        Returns:
            What was counted: the samples, unless the loss says otherwise.
        """
        closed_form = self._closed_forms[len(points) - 1]
        if closed_form is not None:
            closed_form(*points, *batch, scale, out)
            return samples
        if len(points) == 2:
            self.add_gradients(points[:1], batch, samples, scale, out)
            return self.add_gradients(points[1:], batch, samples, -scale, out)
        found = self.backward(points[0], batch, samples, scale, out)
        return float(found[1]) if isinstance(found, tuple) else samples

    def measure(
        self, x: Tensor, batch: Batch, samples: int, scale: float = 1.0, gradient: Tensor | None = None
    ) -> Measured:
        """Return what the batch adds to loss and metrics at x; add scale times the sum of its gradients to ``gradient``."""
        model, closed_form = _Remembering(self._forward), self._closed_forms[0]
        if gradient is None or closed_form is not None:
            if gradient is not None and closed_form is not None:
                outputs = closed_form(x, *batch, scale, gradient)
                if outputs is not None:
                    model.remember(batch[0], outputs)
            self.flat.bind(x)
            with torch.no_grad():
                found = self.task.loss(model, batch)
        else:
            found = self.backward(x, batch, samples, scale, gradient, model)
        total, count = found if isinstance(found, tuple) else (found, 1.0)
        with torch.no_grad():
            loss = float(torch.as_tensor(total).detach()) / float(count)
            metrics = {name: metric.measure(model, batch) for name, metric in self.task.metrics.items()}
        sums = {name: (float(of_metric), float(counted)) for name, (of_metric, counted) in metrics.items()}
        return Measured(loss, float(count) if isinstance(found, tuple) else samples, sums)

    def outputs(self, x: Tensor, inputs: Any) -> Tensor:
        """Return the module's outputs at x."""
        self.flat.bind(x)
        with torch.no_grad():
            return flat_logits(output_of(self._forward, inputs))

    def backward(
        self, x: Tensor, batch: Batch, samples: int, scale: float, out: Tensor, model: Model | None = None
    ) -> Any:
        """Add the gradient at x to out by automatic differentiation; return what the task's loss returned.

        Arguments as for `add_gradients`; ``model`` is called in the module's place.
        """
        self.flat.bind(x)
        self.flat.bind_gradients(out)
        found = self.task.loss(model or self._forward, batch)
        loss, weight = (found[0], scale) if isinstance(found, tuple) else (found, scale * samples)
        torch.autograd.backward(loss, loss.new_tensor(weight))  # adds to the gradients in place, that is to out
        return found


class _Remembering:
    """A model that is not asked twice for the same inputs."""

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
    """Return the loss of a task by a module's own loss(logits, labels)."""
    return lambda model, batch: loss(flat_logits(output_of(model, batch[0])), batch[1])
