"""Byz-EF21 and its relatives with momentum: clients send compressed differences of their estimate from a copy of it."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray
from torch import Tensor

from byzdist.errors import ConfigError
from byzdist.methods.base import METHODS, ClientTask, Full, Method, Sizes, draw_batch
from byzdist.methods.copies import Copies, follows
from byzdist.problem.oracle import Oracle
from byzdist.rounds import Round

_V, _U = "v", "u"


@dataclass(kw_only=True)
class EF21(Copies):
    """The common part: client i sends c_i = C(u_i - g_i), where the method says what its estimate u_i is, and g_i += c_i.

    C is a contraction, E‖C(v) - v‖² < ‖v‖², such as top_k, or identity. Round 0 is a full round: g_i^0 = u_i^0, uncompressed.
    """

    allows_biased = True

    def resolved(self, sizes: Sizes) -> Method:
        """Fill in what `Copies` does; refuse a compressor that is not a contraction.

        Raises:
            ConfigError: if ω >= 1.
        """
        if sizes.omega is not None and sizes.omega >= 1:
            raise ConfigError(
                f"compression: this method needs a contraction, such as top_k; the error of this compressor may be {sizes.omega:.3g} times "
                "as large as what it compresses (in the mean of squares). Use top_k, or byz_dasha_page."
            )
        return super().resolved(sizes)

    def message(self, oracle: Oracle, task: ClientTask, out: Tensor) -> None:
        """Client: u_i - g_i, to be compressed."""
        self.estimate(oracle, task, out)
        out.sub_(self.copy(task))

    @abstractmethod
    def estimate(self, oracle: Oracle, task: ClientTask, out: Tensor) -> None:
        """Write the client's estimate u_i into ``out``."""


@METHODS.register("byz_ef21")
@dataclass(kw_only=True)
class ByzEF21(EF21):
    """Byz-EF21 (Rammal et al., AISTATS 2024): g_i += C(∇f_i(x^k) - g_i), g = A(g_1, ..., g_n).

    ``full_batch: <b'>`` takes the gradient on b' samples, outside of the theory. Byz-EF21-BC, in which the model is compressed, too,
    is not here: requests carry the whole model.
    """

    full_batch: Full | Annotated[int, Ge(1)] = "all"

    def estimate(self, oracle: Oracle, task: ClientTask, out: Tensor) -> None:
        """Write ∇f_i(x^k)."""
        oracle.gradient(task.x, task.client, self.positions(task.round, task.client, oracle.samples(task.client)), out)

    def positions(self, round_: Round, client: int, samples: int) -> np.ndarray | None:
        """Return which samples `estimate` reads: all, or b'."""
        return None if self.full_batch == "all" else draw_batch(round_, client, samples, self.full_batch, self.batches)

    @classmethod
    def evaluations(
        cls, parameters: Mapping[str, Any], full: bool, samples: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return all samples, or b'; see `Method.evaluations`."""
        return samples if parameters["full_batch"] == "all" else np.minimum(samples, parameters["full_batch"])


@METHODS.register("byz_ef21_sgdm")
@dataclass(kw_only=True)
class ByzEF21SGDM(EF21):
    """Byz-EF21-SGDM (Liu et al., TNNLS 2026): the estimate is a momentum, v_i = (1-η) v_i + η·(mini-batch gradient).

    The first v_i is the client's first gradient.
    """

    eta: Annotated[float, Gt(0), Le(1)] = 0.1

    def estimate(self, oracle: Oracle, task: ClientTask, out: Tensor) -> None:
        """Write v_i."""
        oracle.gradient(task.x, task.client, task.batch(oracle.samples(task.client), self.batch_size), out)
        self.smooth(task, _V, out)

    def smooth(self, task: ClientTask, name: str, out: Tensor) -> None:
        """Put ``out`` into the client's average of that name, with weight η, and write the average into ``out``."""
        held = task.memory.get(name)
        if held is None:
            task.memory[name] = out.clone()
        else:
            out.copy_(held.mul_(1 - self.eta).add_(out, alpha=self.eta))


@METHODS.register("byz_dm21")
@dataclass(kw_only=True)
class ByzDM21(ByzEF21SGDM):
    """Byz-DM21 (Li et al., AISTATS 2026): the estimate is a momentum of the momentum, u_i = (1-η) u_i + η v_i, with v_i as Byz-EF21-SGDM.

    The first u_i is the first v_i.
    """

    def estimate(self, oracle: Oracle, task: ClientTask, out: Tensor) -> None:
        """Write u_i."""
        super().estimate(oracle, task, out)
        self.smooth(task, _U, out)


@METHODS.register("byz_vr_dm21")
@dataclass(kw_only=True)
class ByzVRDM21(ByzDM21):
    """Byz-VR-DM21 (Li et al., AISTATS 2026): as Byz-DM21, with v_i = ∇f_iξ(x^k) + (1-η)(v_i - ∇f_iξ(x^{k-1})).

    Both gradients are on the same mini-batch ξ. A client that was not asked in the round before has no v_i for x^{k-1}; then, and in
    full rounds, v_i is its gradient at x^k.
    """

    sends_differences = True

    def estimate(self, oracle: Oracle, task: ClientTask, out: Tensor) -> None:
        """Write u_i."""
        batch = task.batch(oracle.samples(task.client), self.batch_size)
        held, is_next = task.memory.get(_V), follows(task)
        if held is not None and is_next and task.previous is not None:
            oracle.gradient(task.previous, task.client, batch, out)
            held.sub_(out)
            oracle.gradient(task.x, task.client, batch, out)
            out.copy_(held.mul_(1 - self.eta).add_(out))
        else:
            oracle.gradient(task.x, task.client, batch, out)
            task.memory[_V] = out.clone()
        self.smooth(task, _U, out)
