"""Gradients of a torch module as flat vectors, at one point or two, over a mini-batch or all samples of a client."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from byzdist.problem.data import Dataset, Split
from byzdist.problem.models import Array, cross_entropy
from byzdist.problem.modules import check, declared, flat_logits, trained, unwrapped

Positions = NDArray[np.int64]


class Oracle:
    """The loss f_i of each client, a function of one flat vector x [d], and its gradients.

    The parameters of the module become views of the x in use, and their gradients views of the vector to fill,
    wherever those two lie (in a message, say): nothing is flattened or copied. Gradients depend on x and the samples
    only, bit for bit for a given number of threads.

    Args:
        model: see :mod:`byzdist.problem.models`. The oracle takes it over.
        dataset: the data, shared by all clients.
        split: which samples are whose.
        device: where to compute; the data set is moved there as a whole. Points and results may be on the CPU all the same.
        dtype: of x and of the gradients.
        flipped: clients that see label L-1-y in place of y (the label flipping attack).
        name: of the model in the configuration, for messages.

    Raises:
        ConfigError: a module with batch norm or dropout, say, whose gradient is no function of x and the samples.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        split: Split,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
        flipped: Collection[int] = (),
        name: str = "",
    ) -> None:
        self._forward = model.eval()  # perhaps what torch.compile made of the model
        self.model, name = unwrapped(model), name or type(model).__name__
        check(self.model, name)
        self.model.to(device=device, dtype=dtype)
        self.device = torch.device(device)
        self.split = split
        self.classes = dataset.classes
        self.flipped = frozenset(flipped)
        self.features = torch.from_numpy(np.asarray(dataset.features)).to(device=device, dtype=dtype)
        self.labels = torch.from_numpy(np.asarray(dataset.labels)).to(device)
        self.declared = declared(self.model, name)
        self.l2, self.loss = self.declared.l2, self.declared.loss or cross_entropy
        self._add_gradient = self.declared.add_gradient or self.backward
        self._add_difference = self.declared.add_difference or self._backward_twice
        self._parameters = list(trained(self.model).values())
        self._layout = _layout(self._parameters)
        self._common: dict[tuple[int, bool], Tensor] | None = None
        self._initial = torch.cat([parameter.detach().flatten() for parameter in self._parameters])
        self.bind(self._initial)
        self._rooms: list[Tensor] = []  # on the device, for vectors that are elsewhere
        closed_form, columns = self.declared.add_gradient is not None, prod(dataset.feature_shape)
        self.chunk = _chunk(self.device, closed_form, columns)
        self._few = 0
        if closed_form and self.device.type == "cpu":
            # Batches so small that calls cost more than arithmetic go to numpy: its calls are twice as fast as torch's.
            # The bound is below the size from which numpy's BLAS would start threads of its own.
            self._few = 2**13 // columns
            self._arrays = self.features.numpy(), self.labels.numpy()

    @property
    def dimension(self) -> int:
        """The number d of parameters."""
        return self._initial.numel()

    def initial(self) -> Tensor:
        """Return x^0, as the module was made: a fresh vector [d]."""
        return self._initial.clone()

    def samples(self, client: int) -> int:
        """Return how many samples a client holds."""
        return self.split.size(client)

    def gradient(self, x: Tensor, client: int, batch: Positions | None, out: Tensor) -> None:
        """Write into out [d] the gradient at x of the client's loss, or of its mean over a mini-batch.

        Args:
            x: the point [d].
            client: whose loss.
            batch: positions 0..m-1 among the client's samples, or None for all of them.
            out: is overwritten; must not overlap with x.
        """
        key = (x.data_ptr(), client in self.flipped)
        common = self._common if batch is None and self.split.shared else None
        if common is not None and key in common:
            out.copy_(common[key])
            return
        here, there = self._here(x, out)
        torch.mul(here, 2 * self.l2, out=there)
        (x_, out_), blocks, scale = self._work(client, batch, here, there)
        for features, labels in blocks:
            self._add_gradient(x_, features, labels, scale, out_)
        if there is not out:
            out.copy_(there)
        if common is not None:
            common[key] = out.clone()

    def forget_points(self) -> None:
        """Promise that points keep their values until the next call.

        The full gradient that clients with the same samples have in common is then computed once for each point, where
        the place of a vector in memory tells points apart. Without such a promise nothing is remembered.
        """
        self._common = {}

    def difference(self, x_new: Tensor, x_old: Tensor, client: int, batch: Positions | None, out: Tensor) -> None:
        """Write into out [d] the gradient at x_new minus the gradient at x_old, both on the same samples.

        Arguments as for :meth:`gradient`; out must overlap with neither point.
        """
        new_here, old_here, there = self._here(x_new, x_old, out)
        torch.sub(new_here, old_here, out=there).mul_(2 * self.l2)
        (new, old, out_), blocks, scale = self._work(client, batch, new_here, old_here, there)
        for features, labels in blocks:
            self._add_difference(new, old, features, labels, scale, out_)
        if there is not out:
            out.copy_(there)

    def add_gradient(self, x: Tensor, features: Tensor, labels: Tensor, scale: float, out: Tensor) -> Tensor:
        """Add to out scale times the sum of the samples' gradients at x, without the regularizer; return the logits."""
        logits: Tensor = self._add_gradient(x, features, labels, scale, out)
        return logits

    def logits(self, x: Tensor, features: Tensor) -> Tensor:
        """Return the module's logits at x."""
        self.bind(x)
        with torch.no_grad():
            return flat_logits(self._forward(features))

    def blocks(self, indices: Positions | None, flip: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the features and labels at these positions of the data set (None: all) in blocks of a fixed size."""
        total = len(self.labels) if indices is None else len(indices)
        for start in range(0, total, self.chunk):
            end = min(start + self.chunk, total)
            if indices is None:
                features, labels = self.features[start:end], self.labels[start:end]
            else:
                features, labels = self._gather(indices[start:end])
            yield features, (self.classes - 1 - labels if flip else labels)

    def _here(self, *vectors: Tensor) -> Sequence[Tensor]:
        """Return the vectors themselves, or copies of them on the device, in buffers that are kept."""
        if all(vector.device == self.device for vector in vectors):
            return vectors
        while len(self._rooms) < len(vectors):
            self._rooms.append(torch.empty_like(self._initial))
        return [room.copy_(vector) for room, vector in zip(self._rooms, vectors, strict=False)]

    def _work(
        self, client: int, batch: Positions | None, *vectors: Tensor
    ) -> tuple[Sequence[Array], Iterable[tuple[Array, Array]], float]:
        """Return the vectors and the blocks of samples to compute with, and the weight of one sample."""
        indices, flip = self.split.indices(client), client in self.flipped
        if batch is not None:
            indices = batch if indices is None else indices[batch]
        if indices is None:
            return vectors, self.blocks(None, flip), 1.0 / len(self.labels)
        if len(indices) > self._few:
            return vectors, self.blocks(indices, flip), 1.0 / len(indices)
        features, labels = self._arrays[0].take(indices, axis=0), self._arrays[1].take(indices)
        block = (features, self.classes - 1 - labels if flip else labels)
        return [vector.numpy() for vector in vectors], [block], 1.0 / len(indices)

    def _gather(self, indices: Positions) -> tuple[Tensor, Tensor]:
        there = torch.from_numpy(indices).to(self.device)
        return self.features.index_select(0, there), self.labels.index_select(0, there)

    def bind(self, x: Tensor) -> None:
        """Make the module's parameters views of x, which must stay as it is as long as they are used."""
        for parameter, (shape, stride, offset) in zip(self._parameters, self._layout, strict=True):
            parameter.data = x.as_strided(shape, stride, x.storage_offset() + offset)

    def backward(self, x: Tensor, features: Tensor, labels: Tensor, scale: float, out: Tensor) -> Tensor:
        """Do what `add_gradient` does, by automatic differentiation."""
        self.bind(x)
        for parameter, (shape, stride, offset) in zip(self._parameters, self._layout, strict=True):
            parameter.grad = out.as_strided(shape, stride, out.storage_offset() + offset)
        logits = flat_logits(self._forward(features))
        loss: Tensor = self.loss(logits, labels)
        # Adds to the gradients in place, that is to out.
        torch.autograd.backward(loss, loss.new_tensor(scale * len(labels)))
        return logits.detach()

    def _backward_twice(
        self, x_new: Tensor, x_old: Tensor, features: Tensor, labels: Tensor, scale: float, out: Tensor
    ) -> None:
        self.backward(x_new, features, labels, scale, out)
        self.backward(x_old, features, labels, -scale, out)


def _layout(parameters: list[nn.Parameter]) -> list[tuple[torch.Size, tuple[int, ...], int]]:
    """Return shape, stride and offset of each parameter in the flat vector."""
    layout, offset = [], 0
    for parameter in parameters:
        layout.append((parameter.shape, torch.empty(parameter.shape, device="meta").stride(), offset))
        offset += parameter.numel()
    return layout


def _chunk(device: torch.device, closed_form: bool, columns: int) -> int:
    """Return how many samples to take at once: what a CPU's cache holds, or what keeps a GPU busy."""
    small = device.type == "cpu"
    if closed_form:
        return max(1, (2**19 if small else 2**24) // columns)
    return 256 if small else 2048
