"""Robust aggregation of gradients in torch's DistributedDataParallel, by a hook; docs/integrations.md says what it protects against."""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import GradBucket  # type: ignore[attr-defined]  # the stub forgets it

from byzdist.aggregation import Aggregator
from byzdist.errors import ConfigError
from byzdist.integrations.declared import check_declared
from byzdist.randomness import stream
from byzdist.registry import Named

Hook = Callable[[dist.ProcessGroup | None, GradBucket], torch.futures.Future[Tensor]]


def robust_hook(rule: Named, *, f: int, pre: Sequence[Named] = (), seed: int = 0) -> Hook:
    """Return a communication hook that aggregates the ranks' gradients by a robust rule instead of averaging them.

    Every rank gathers and aggregates each bucket of gradients separately, while the backward pass continues. On machines of one
    kind all ranks get the same bits. Rows with NaN or infinity are left out and subtracted from f. If more than f ranks send
    such rows, one of them is honest, and the result is NaN, as in plain DDP: a GradScaler then skips the step.

    Args:
        rule: a registered name, {name: ..., parameters}, or a spec. A rule that remembers is refused.
        f: how many ranks may send arbitrary gradients.
        pre: pre-aggregation steps in order, each given in the same way.
        seed: keys the random draws, together with the bucket and its number of calls; it must be the same on all ranks.

    Returns:
        The hook, whose state is a process group, or None for the default one. It keeps the gathered gradients: the model's size
        times the number of ranks.

    Raises:
        ConfigError: for an unknown name, a wrong parameter, or an f that the steps and the rule do not tolerate. The last is raised
            here if the default group exists, and for another group in its first backward pass.

    Example:
        >>> import byzdist
        >>> hook = byzdist.ddp.robust_hook("trimmed_mean", pre=["nnm"], f=2)  # model.register_comm_hook(None, hook)
        >>> byzdist.ddp.robust_hook("trimmed_mean", f=-1)
        Traceback (most recent call last):
        byzdist.errors.ConfigError: ddp.f: -1; a whole number of ranks is needed.
    """

    def new() -> Aggregator:
        return Aggregator(rule, pre, compile="kept", key="ddp")

    first = new()
    if first.rule.remembers:
        raise ConfigError(
            f"ddp.rule: {rule!r} remembers earlier calls, but no checkpoint of a DDP script has its memory; choose another rule."
        )
    check_declared(f, "ddp", "ranks")
    if dist.is_available() and dist.is_initialized():
        _check(first, f, dist.get_world_size())
    buckets: dict[int, _Bucket] = {}

    def hook(group: dist.ProcessGroup | None, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        number, mine = bucket.index(), bucket.buffer()
        kept = buckets.get(number)
        if kept is None:
            _check(first, f, dist.get_world_size(group))
            kept = buckets[number] = _Bucket(new(), f, seed, number)
        return kept.aggregate(mine, group)

    return hook


def _check(aggregator: Aggregator, f: int, ranks: int) -> None:
    tolerated = min(aggregator.max_f(ranks), aggregator.max_byzantine(ranks))
    if f > tolerated:
        raise ConfigError(
            f"ddp.f: {f} of {ranks} ranks; these steps and this rule tolerate {tolerated} in the worst case. "
            "Declare fewer, add ranks, or choose another rule."
        )


class _Bucket:
    """The buffers of one bucket; each bucket has its own, because buckets are aggregated at the same time."""

    def __init__(self, aggregator: Aggregator, f: int, seed: int, number: int) -> None:
        self._aggregator, self._f, self._seed, self._number = aggregator, f, seed, number
        self._gathered = torch.empty(0)
        self._calls = 0

    def aggregate(self, mine: Tensor, group: dist.ProcessGroup | None) -> torch.futures.Future[Tensor]:
        """Return a future for the aggregate of all ranks' gradients, which overwrites this rank's own."""
        ranks, call = dist.get_world_size(group), self._calls
        self._calls += 1
        known = self._gathered
        # DDP may change its buckets, and does so after the first iteration
        if (known.shape, known.dtype, known.device) != ((ranks, len(mine)), mine.dtype, mine.device):
            self._gathered = torch.empty(ranks, len(mine), dtype=mine.dtype, device=mine.device)
        work = dist.all_gather_single(self._gathered.view(-1), mine, group=group, async_op=True)
        assert work is not None

        def finish(_: torch.futures.Future[list[Tensor]]) -> Tensor:
            draws = stream(self._seed, "ddp", self._number, call)
            try:
                result = self._aggregator(self._gathered, f=self._f, generator=draws, out=mine, nonfinite="drop")
            except ConfigError:  # no row is finite
                return mine.fill_(float("nan"))
            return mine if len(result.dropped) <= self._f else mine.fill_(float("nan"))

        done: torch.futures.Future[Tensor] = work.get_future().then(finish)
        return done
