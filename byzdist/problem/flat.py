"""The trained parameters of a module as one flat vector x, without copies."""

import torch
from torch import Tensor, nn

from byzdist.problem.modules import trained

_CACHE_LINE = 64  # bytes


class Flat:
    """The layout of x [d]: which piece of it is which parameter.

    Parameters become views of the vector in use, and their gradients views of the vector to fill, even if these lie in a
    message: nothing is flattened, and only an x that begins within a cache line is copied. Frozen parameters are not part of
    x, and tied ones count once.
    """

    def __init__(self, model: nn.Module) -> None:
        named = trained(model)
        self.names = list(named)
        self._parameters = list(named.values())
        self._layout: list[tuple[torch.Size, tuple[int, ...], int]] = []
        offset = 0
        for parameter in self._parameters:
            self._layout.append((parameter.shape, torch.empty(parameter.shape, device="meta").stride(), offset))
            offset += parameter.numel()
        self._aligned: Tensor | None = None  # made when it is first needed
        self._initial = torch.cat([parameter.detach().flatten() for parameter in self._parameters])
        self.bind(self._initial)

    @property
    def dimension(self) -> int:
        """The number d of trained parameters."""
        return self._initial.numel()

    def initial(self) -> Tensor:
        """Return x^0, as the module was made: a fresh vector [d]."""
        return self._initial.clone()

    def pieces(self, x: Tensor) -> dict[str, Tensor]:
        """Return each parameter's part of x, as a view in the parameter's shape."""
        return {
            name: x[offset : offset + shape.numel()].view(shape)
            for name, (shape, _, offset) in zip(self.names, self._layout, strict=True)
        }

    def bind(self, x: Tensor) -> None:
        """Make the module's parameters views of x, which must not change while they are used."""
        if x.data_ptr() % _CACHE_LINE:  # the last digits of a library's products can depend on alignment
            if self._aligned is None:
                self._aligned = torch.empty_like(self._initial)
            x = self._aligned.copy_(x)
        for parameter, (shape, stride, offset) in zip(self._parameters, self._layout, strict=True):
            parameter.data = x.as_strided(shape, stride, x.storage_offset() + offset)

    def bind_gradients(self, out: Tensor) -> None:
        """Make the parameters' gradients views of out [d]: a backward pass then adds to it."""
        for parameter, (shape, stride, offset) in zip(self._parameters, self._layout, strict=True):
            parameter.grad = out.as_strided(shape, stride, out.storage_offset() + offset)

    def unbind(self) -> None:
        """Drop the views of the last vectors: the module has x^0 again, and no gradients."""
        self.bind(self._initial)
        for parameter in self._parameters:
            parameter.grad = None
