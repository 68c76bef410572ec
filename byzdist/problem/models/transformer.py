"""A small transformer: a language model, or a classifier of single tokens."""

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from torch import Tensor, nn

from byzdist.errors import ConfigError
from byzdist.problem.models.base import MODELS, Size, Weight

_DEVIATION = 0.02  # of initial weights, as in GPT-2


class Block(nn.Module):
    """Causal self-attention and a perceptron, each behind a layer norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        self.before_attention, self.before_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values, self.attended = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return [b, T, width]; a position sees itself and those before it."""
        b, t, width = x.shape
        parts = self.queries_keys_values(self.before_attention(x)).view(b, t, 3, self.heads, width // self.heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.dropout(self.attended(seen.transpose(1, 2).reshape(b, t, width)))
        out: Tensor = x + self.dropout(self.perceptron(self.before_perceptron(x)))
        return out


@MODELS.register("transformer", "gpt")
class Transformer(nn.Module):
    """A decoder-only transformer (pre-norm, learned positions, tied embeddings) for tokens [b, T]; logits are [b, T, vocabulary].

    The data give T and the vocabulary; ``width`` is divided among ``heads``.
    """

    def __init__(
        self,
        feature_shape: Sequence[int],
        classes: int,
        *,
        width: Size = 64,
        layers: Size = 2,
        heads: Size = 4,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        l2: Weight = 0.0,
    ) -> None:
        super().__init__()
        if len(feature_shape) != 1:
            raise ConfigError(
                f"model.name: 'transformer' wants tokens [N, T]; these data have features of shape {list(feature_shape)}."
            )
        if width % heads:
            raise ConfigError(f"model.heads: {heads} do not divide model.width, which is {width}.")
        self.l2 = l2
        self.tokens, self.places = nn.Embedding(classes, width), nn.Parameter(torch.empty(feature_shape[0], width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=_DEVIATION)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of what follows each token, [b, T, vocabulary]."""
        x = self.dropout(self.tokens(tokens) + self.places[: tokens.shape[1]])
        logits: Tensor = self.norm(self.blocks(x)) @ self.tokens.weight.T
        return logits
