"""The strategy for Flower, with Flower's own messages, apps and strategies, but without a network between them."""

import logging
from typing import Any

import numpy as np
import pytest
import torch

from byzdist.aggregation import aggregate
from byzdist.errors import ConfigError

pytest.importorskip(
    "flwr", reason="Flower is not installed; it asks for older releases of rich and packaging than .venv has"
)

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from byzdist.integrations.flower import RobustStrategy, median_metrics
from docs.examples import flower_app


class InProcess(Grid):  # type: ignore[misc, unused-ignore]
    """A grid whose nodes are calls to a function."""

    def __init__(self, clients: int, answer: Any) -> None:
        self._nodes, self._answer = range(clients), answer
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = (
            1  # Flower's processes set it when they start
        )

    def get_node_ids(self) -> Any:
        return list(self._nodes)

    def send_and_receive(self, messages: Any, *, timeout: Any = None) -> Any:
        return [self._answer(message) for message in messages]

    def run(self) -> Any: ...
    def set_run(self, run: Any) -> None: ...
    def create_message(self, *_: Any, **__: Any) -> Any: ...
    def push_messages(self, messages: Any) -> Any: ...
    def pull_messages(self, message_ids: Any) -> Any: ...


def reply(message, arrays, metrics=None):
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord(metrics or {"num-examples": 1})})
    return Message(content, reply_to=message)


def record(**arrays):
    return ArrayRecord({name: Array(np.asarray(value)) for name, value in arrays.items()})


def train(strategy, start, answers, rounds=1):
    """Return the models after each round; ``answers(round, client, arrays)`` is a client's model."""
    models, at, config = [], start, ConfigRecord()
    for number in range(1, rounds + 1):
        clients = len(answers(number, None, at))
        grid = InProcess(clients, lambda message: answers(number, message, at)[message.metadata.dst_node_id])  # noqa: B023
        messages = strategy.configure_train(number, at, config, grid)
        new, _ = strategy.aggregate_train(number, grid.send_and_receive(messages))
        at = at if new is None else new
        models.append({name: array.numpy() for name, array in at.items()})
    return models


def of_updates(updates):
    """Return clients that add these updates to the model's w."""

    def answers(number, message, at):
        w = at["w"].numpy()
        return [None if message is None else reply(message, record(w=w + update)) for update in updates(number)]

    return answers


def drawn(number, n=7, d=30):
    return list(np.random.default_rng(number).normal(1.0, 1.0, (n, d)).astype(np.float32))


def test_a_round_is_what_the_rule_makes_of_the_updates():
    start = record(w=np.ones(30, np.float32))
    strategy = RobustStrategy("trimmed_mean", f=2, pre=["nnm"])
    first, second = train(strategy, start, of_updates(drawn), rounds=2)
    expected = 1 + aggregate(np.stack(drawn(1)), "trimmed_mean", pre=["nnm"], f=2)
    np.testing.assert_allclose(first["w"], expected, rtol=1e-5)
    expected = first["w"] + aggregate(np.stack(drawn(2)), "trimmed_mean", pre=["nnm"], f=2)
    np.testing.assert_allclose(second["w"], expected, rtol=1e-4)


def test_the_clipping_heuristic_is_that_of_the_paper():
    strategy = RobustStrategy("coordinate_median", f=2, clip=0.5)
    x, models = np.ones(30), train(strategy, record(w=np.ones(30, np.float32)), of_updates(drawn), rounds=3)
    u = np.median(drawn(1), axis=0)
    for number, model in enumerate(models, 1):
        if number > 1:  # g^k = g^{k-1} + Agg(clip(g_i^k - g^{k-1})), λ = α ‖x^k - x^{k-1}‖, written for u = -γ g
            level, differences = 0.5 * np.linalg.norm(u), np.stack(drawn(number)) - u
            lengths = np.linalg.norm(differences, axis=1, keepdims=True)
            assert (lengths > level).any()
            u = u + np.median(differences * np.minimum(1, level / lengths), axis=0)
        x = x + u
        np.testing.assert_allclose(model["w"], x, rtol=1e-4)


def test_a_hostile_majority_of_a_clipped_round_moves_the_model_little():
    def updates(number):
        return drawn(1) if number == 1 else [np.full(30, 1e30, np.float32)] * 5 + drawn(2)[:2]

    first, second = train(
        RobustStrategy("geometric_median", f=2, clip=1.0), record(w=np.zeros(30, np.float32)), of_updates(updates), 2
    )
    step = np.linalg.norm(first["w"])
    assert np.linalg.norm(second["w"] - first["w"]) <= 2.001 * step


def test_replies_of_another_form_are_left_out_and_named(caplog):
    def answers(number, message, at):
        if message is None:
            return [None] * 8
        w, good = at["w"].numpy(), reply(message, record(w=at["w"].numpy() + 1, n=np.array(7)))
        return [
            good,
            good,
            good,
            reply(message, record(w=w[:2], n=np.array(1))),
            reply(message, record(v=w, n=np.array(1))),
            reply(message, record(w=w.astype(np.float64), n=np.array(1))),
            reply(message, record(w=np.full_like(w, np.nan), n=np.array(10**9))),
            Message(RecordDict({}), reply_to=message),
        ]

    with caplog.at_level(logging.WARNING, "flwr"):
        logging.getLogger("flwr").propagate = True
        (model,) = train(
            RobustStrategy("coordinate_median", f=1), record(w=np.zeros(4, np.float32), n=np.array(3)), answers
        )
    assert model["w"].tolist() == [1.0] * 4 and model["n"] == 7
    said = [line for line in caplog.messages if "left out" in line]
    assert len(said) == 5
    for words in ("w is (2,)", "other names", "w is (4,), float64", "expected 1, got 0", "w holds NaN"):
        assert sum(words in line for line in said) == 1


def test_too_few_replies_leave_the_model():
    start, few = record(w=np.zeros(30, np.float32)), of_updates(lambda number: drawn(1)[:4])
    (model,) = train(RobustStrategy("coordinate_median", f=2), start, few)
    assert not model["w"].any()
    (model,) = train(RobustStrategy("coordinate_median", f=1), start, few)
    assert model["w"].any()


def test_metrics_are_medians_of_what_is_claimed():
    claims = [
        {"loss": 1.0, "num-examples": 10**9},
        {"loss": 2.0},
        {"loss": 3.0},
        {"loss": float("nan")},
        {"loss": 1e300, "x": 1},
    ]
    contents = [RecordDict({"metrics": MetricRecord(claim)}) for claim in claims]
    assert dict(median_metrics(contents, "num-examples")) == {"loss": 2.5}


def test_mistakes_are_named():
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"rule": "trimed_mean", "f": 1}, "flower.rule: unknown rule"),
        ({"rule": "mean", "f": -1}, "flower.f: -1"),
        ({"rule": "mean", "f": 0, "clip": 0.0}, "flower.clip: 0.0"),
    ]
    for options, message in wrong:
        with pytest.raises(ConfigError, match=message):
            RobustStrategy(**options)


def test_the_example_trains_where_the_average_does_not(capsys):
    def answer(message):
        client = message.metadata.dst_node_id
        context = Context(
            run_id=0, node_id=client, node_config={"partition-id": client}, state=RecordDict(), run_config={}
        )
        return flower_app.client_app(message, context)

    torch.set_num_threads(1)
    found = {}
    for rule in ("trimmed_mean", "average"):
        run_config: Any = {"rule": rule}
        context = Context(run_id=0, node_id=0, node_config={}, state=RecordDict(), run_config=run_config)
        flower_app.server_app(InProcess(flower_app.CLIENTS, answer), context)
        found[rule] = float(capsys.readouterr().out.split()[-1])
    assert found["trimmed_mean"] > 0.8 and found["average"] < 0.5, found
