"""One experiment, one file: strict, typed, and every error names the key, the value and what is allowed."""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from byzdist.registry import Spec
from byzdist.words import shown


class Section(BaseModel):
    """A part of the configuration that takes no unknown keys and no values of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class Clients(Section):
    """Who takes part; the last ``byzantine`` of the ``count`` clients are Byzantine. ``availability`` says who can, and when."""

    count: Annotated[int, Field(ge=1, le=10**6)]
    byzantine: Annotated[int, Field(ge=0)] = 0
    availability: Spec = Spec("always")

    @property
    def honest_ids(self) -> range:
        """The ids of the honest clients."""
        return range(self.count - self.byzantine)

    @property
    def byzantine_ids(self) -> range:
        """The ids of the Byzantine clients."""
        return range(self.count - self.byzantine, self.count)


class Aggregation(Section):
    """The robust rule, the pre-aggregation steps, and how many Byzantine clients the operator declares.

    Attributes:
        allow_breakdown: accept full rounds in which steps and rule tolerate fewer Byzantine clients than are declared, as the paper does
            (5 of 20 and buckets of 2). Full rounds are not clipped: one such round can undo everything.
        compile: compile loops in C, which are faster: coordinate-wise rules and weighted sums keep their bits, inner products all but
            the last digits. So a run that is repeated bit for bit needs a compiler both times or never. "auto"
            compiles if there is a compiler and the model is large enough to gain back the tenths of a second, or on a GPU the
            ten seconds and more that torch.compile takes for a rule; true always compiles.
    """

    rule: Spec
    pre: list[Spec] = []
    declared_byzantine: Annotated[int, Field(ge=0)] | None = None
    allow_breakdown: bool = False
    compile: bool | Literal["auto"] = "auto"

    @field_validator("pre", mode="before")
    @classmethod
    def _steps(cls, pre: object) -> object:
        return [pre] if isinstance(pre, str | dict) else pre


class Transport(Section):
    """How server and workers talk, and how long they wait for each other.

    On the star the times nest: a round waits at most ``deadline`` for its replies; a worker that keeps its link waiting for
    ``deadline + join_timeout`` loses it, and may join again; a run that cannot reach the clients of ``min_replies`` for
    ``join_timeout`` ends.

    Attributes:
        name: star and collective start processes; local runs in one process, and has no deadlines.
        deadline: the longest wait for a round's replies, in seconds.
        join_timeout: the longest wait for workers to join, or to join again, in seconds.
        min_replies: with fewer replies than this, a round leaves the estimate as it is.
        offences: how many offences lead to quarantine: replies of a client that are malformed or not finite, or on the star broken links
            and missing parts of checkpoints of a worker.
        late_share: on the star, the share of the run's time for which rounds may wait in vain for one worker, once it has missed three
            deadlines; a worker that takes more is not asked for a while. 1 means no limit.
        late: on the star, whether a reply that comes after its round is dropped, or enters the next sampled round with a smaller weight.
        draw: whether cohorts come from the clients that can be reached, or from all, where those out of reach count as missing.
        restarts: on the star, how often a killed worker process is started again.
    """

    name: Literal["star", "collective", "local"] = "star"
    deadline: Annotated[float, Field(gt=0)] = 30.0
    join_timeout: Annotated[float, Field(gt=0)] = 60.0
    min_replies: Annotated[int, Field(ge=1)] = 1
    offences: Annotated[int, Field(ge=1)] = 3
    late_share: Annotated[float, Field(gt=0, le=1)] = 0.05
    late: Literal["drop", "keep"] = "drop"
    draw: Literal["available", "all"] = "available"
    restarts: Annotated[int, Field(ge=0, le=254)] = 3

    @model_validator(mode="after")
    def _order(self) -> "Transport":
        if self.name == "star" and self.join_timeout < self.deadline:
            raise ValueError(f"join_timeout ({self.join_timeout:g} s) must be at least deadline ({self.deadline:g} s)")
        return self


class Evaluate(Section):
    """After how many rounds the server evaluates the model, and on how many samples, drawn once (all by default)."""

    every: Annotated[int, Field(ge=1)] = 50
    samples: Annotated[int, Field(ge=1)] | None = None


class Checkpoints(Section):
    """After how many rounds, and how many minutes, the state of the run is saved, and how many such states are kept.

    A run that ends, or is told to end, saves its state in any case.
    """

    every: Annotated[int, Field(ge=1)] | Literal["none"] = "none"
    minutes: Annotated[float, Field(gt=0)] | Literal["none"] = 1.0
    keep: Annotated[int, Field(ge=1)] = 2


class Stopping(Section):
    """When a run ends before its last round. It then saves its best model; its checkpoint has the last one.

    Attributes:
        metric: loss, gap, grad_norm, or a metric of the task; each knows whether higher or lower is better.
        patience: the run ends after this many evaluations without a better one.
        min_delta: a model counts as better if its metric is better by more than this.
    """

    metric: str = "loss"
    patience: Annotated[int, Field(ge=1)] = 10
    min_delta: Annotated[float, Field(ge=0)] = 0.0


class MetricsOut(Section):
    """The places to which metrics go besides the run's folder.

    Attributes:
        tensorboard: whether to write files for TensorBoard into the run's folder.
        log: other loggers, one or a list: wandb, mlflow, or 'module:function'.
        diagnostics: whether each line also says how honest replies vary and what the rule did with Byzantine ones, and clients.csv
            what each client did.
    """

    tensorboard: bool = False
    log: Spec | list[Spec] = []
    diagnostics: bool = False

    @property
    def loggers(self) -> list[Spec]:
        """The entries of ``log``, one or a list."""
        return self.log if isinstance(self.log, list) else [self.log]


class Config(Section):
    """An experiment; the sections that name a registered piece are checked against that piece's own parameters."""

    name: str
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    rounds: Annotated[int, Field(ge=1, lt=2**32)]  # the round number travels in 32 bits
    clients: Clients
    data: Spec
    model: Spec
    task: Annotated[
        Spec | None,
        Field(description="what is learnt: a loss and metrics; by default the data set's own, classification for most"),
    ] = None
    validation: Annotated[
        Spec | None,
        Field(
            description="data of the server's own, on which it measures the task's metrics in place of the data set's test set"
        ),
    ] = None
    method: Spec
    compression: Spec = Spec("identity")
    aggregation: Aggregation
    attack: Spec | list[Spec] = Spec("none")
    transport: Transport = Transport()
    evaluate: Evaluate = Evaluate()
    metrics: MetricsOut = MetricsOut()
    checkpoint: Checkpoints = Checkpoints()
    stop: Stopping | None = None
    device: str = "auto"
    dtype: Literal["float32", "float64"] = "float32"
    precision: Annotated[
        Literal["full", "bf16"],
        Field(
            description="bf16: the model computes in bfloat16 where torch's autocast does; x and gradients keep their dtype"
        ),
    ] = "full"
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    on_divergence: Annotated[
        Literal["stop", "continue"],
        Field(description="what a run does when its loss is not finite, or a thousand times the loss at the start"),
    ] = "stop"

    @field_validator("transport", mode="before")
    @classmethod
    def _transport(cls, transport: object) -> object:
        return {"name": transport} if isinstance(transport, str) else transport

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if not re.fullmatch(r"[\w.-]{1,100}", name):
            raise ValueError(
                "a run's name, which becomes its folder's, is made of 1 to 100 letters, digits, dots, hyphens and underscores "
                f"(it is {shown(name)})"
            )
        return name

    @field_validator("device", mode="before")
    @classmethod
    def _device(cls, device: object) -> object:
        if not re.fullmatch(r"auto|cpu|(?!cpu|auto|gpu)[a-z]+(:\d+)?", str(device)):
            raise ValueError(
                "must be auto, cpu, cuda, or cuda:N for the GPU of number N; other accelerators have torch's names, such as xpu "
                f"(it is {shown(device)})"
            )
        return device

    @property
    def attacks(self) -> list[Spec]:
        """The entries of ``attack``, one or a list."""
        return self.attack if isinstance(self.attack, list) else [self.attack]

    @property
    def declared_byzantine(self) -> int:
        """B, as the operator declares it; by default the configured number."""
        declared = self.aggregation.declared_byzantine
        return self.clients.byzantine if declared is None else declared
