from dataclasses import replace

import pytest
import torch

from byzdist.compression.identity import Identity
from byzdist.compression.rand_k import RandK
from byzdist.config.reading import parse
from byzdist.errors import ConfigError
from byzdist.methods.base import ClientTask, Method
from byzdist.methods.estimates import SGD
from byzdist.rounds import Round
from byzdist.runtime.experiment import choose_device, prepare
from tests.support.cases import BASE, RAND_K, case

CPU = torch.device("cpu")


def test_the_pieces_of_a_run():
    experiment = prepare(parse(case("label_flip", RAND_K, full_cohort=7)), CPU)
    assert experiment.oracle.dimension == 12 and experiment.dtype == torch.float64
    assert experiment.shared_data.flipped == {5, 6, 7, 8}
    assert isinstance(experiment.compressors[True], Identity) and isinstance(experiment.compressors[False], RandK)
    assert prepare(parse(case("bit_flip")), CPU).shared_data.flipped == set()


@pytest.mark.parametrize(
    "attacks, flipped",
    [
        (["label_flip"], {5, 6, 7, 8}),
        ([{"name": "bit_flip", "clients": [6]}, "label_flip"], {5, 7, 8}),
        ([{"name": "label_flip", "clients": [6]}, "bit_flip"], {6}),
        (["bit_flip", "label_flip"], set()),
        ([{"name": "zero", "clients": [6], "rounds": [0, 3]}, {"name": "label_flip", "clients": [5, 8]}], {5, 8}),
        (
            [{"name": "zero", "clients": [6]}, {"name": "inf", "clients": [6], "rounds": [0, 3]}, "label_flip"],
            {5, 7, 8},
        ),
        (["label_flip", {"name": "zero", "rounds": [0, 3]}], {5, 6, 7, 8}),
    ],
)
def test_labels_are_flipped_where_the_first_entry_of_a_client_says_so(attacks, flipped):
    assert prepare(parse({**BASE, "attack": attacks}), CPU).shared_data.flipped == flipped


def test_the_default_of_p_comes_from_the_sizes_of_the_run():
    def p(**method):
        return vars(prepare(parse(case("none", RAND_K, p=None, **method)), CPU).method)["p"]

    assert p(cohort=9, batch_size=90) == 5 / 12  # K/d, K = ceil(0.35·12)
    assert p(cohort=3, batch_size=90) == 3 / 9
    assert p(cohort=9, batch_size=9) == 9 / 90


def test_p_counts_the_samples_of_a_mean_client():
    for holders, samples in (("all", 10), ("honest", 18)):  # 90 samples among 9 clients, or among the 5 honest ones
        data = {**BASE["data"], "split": {"name": "iid", "holders": holders}}
        config = {**case("none", p=None, cohort=9, batch_size=5), "data": data}
        assert vars(prepare(parse(config), CPU).method)["p"] == 5 / samples


@pytest.mark.parametrize("transport, max_ids", [("collective", 5), ("star", 9)])
def test_the_sizes_of_messages(transport, max_ids):
    config = {**case("none", RAND_K), "transport": {"name": transport}}
    shape = prepare(parse(config), CPU).shape(4)
    assert (shape.clients, shape.workers, shape.dimension, shape.max_cohort) == (9, 4, 12, 9)
    assert shape.max_payload == 12 * 8 and shape.max_ids == max_ids  # on the star anyone may be away
    assert [shape.rank(client) for client in range(6)] == [1, 2, 3, 4, 1, 2]


def see(monkeypatch, gpus):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)


@pytest.mark.parametrize(
    "transport, ranks, device", [("collective", 4, "cuda:1"), ("collective", 5, "cpu"), ("star", 4, "cpu")]
)
def test_messages_of_a_gpu_lie_where_the_transport_sends_from(monkeypatch, transport, ranks, device):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    see(monkeypatch, gpus=4)
    experiment = prepare(parse({**case("none"), "transport": {"name": transport}}), CPU)
    assert replace(experiment, device=torch.device("cuda:1")).shape(4).device == torch.device(device)


def test_the_same_configuration_gives_the_same_start_and_another_seed_another_one():
    def start(seed):
        return prepare(parse({**BASE, "seed": seed, "model": {"name": "mlp", "hidden": [3]}}), CPU).oracle.initial()

    assert torch.equal(start(1), start(1)) and not torch.equal(start(1), start(2))


@pytest.mark.parametrize("split, most", [("shared", 90), ("iid", 18)])
def test_a_batch_larger_than_a_clients_data_is_all_of_them(split, most, caplog):
    def gradient(size):
        caplog.clear()
        config = {**case("none", batch_size=size, p=0.5), "data": {**BASE["data"], "split": split}}
        experiment = prepare(parse(config), CPU)
        x = experiment.oracle.initial()
        out, task = torch.empty_like(x), ClientTask(Round(3, 5), 2, x + 1, x)
        experiment.method.message(experiment.oracle, task, out)
        return out

    whole = gradient(most)
    assert "batch" not in caplog.text
    for size in (most + 1, 10**9):
        assert torch.equal(gradient(size), whole)
        assert (
            f"method.batch_size is {size}; a client with fewer samples" in caplog.text and f"has {most}" in caplog.text
        )


@pytest.mark.parametrize("alpha", [0.01, 0.1, 1.0])
def test_clients_of_a_dirichlet_split_with_little_data_send_small_batches(alpha):
    config = {
        **case("none", batch_size=32, full_batch=50),
        "data": {**BASE["data"], "split": {"name": "dirichlet", "alpha": alpha}},
    }
    experiment = prepare(parse(config), CPU)
    x = experiment.oracle.initial()
    for client in range(9):
        assert len(ClientTask(Round(1, 5, True), client, x, None).batch(experiment.oracle.samples(client), 32)) <= 32
        out = torch.full_like(x, torch.nan)
        experiment.method.message(experiment.oracle, ClientTask(Round(1, 5, True), client, x, None), out)
        assert out.isfinite().all()


@pytest.mark.parametrize(
    "wanted, gpus, local_rank, expected",
    [
        ("cpu", 4, 1, "cpu"),
        ("auto", 0, 1, "cpu"),
        ("auto", 4, 1, "cuda:1"),
        ("auto", 4, 6, "cuda:2"),
        ("cuda", 4, 3, "cuda:3"),
        ("cuda:2", 4, 0, "cuda:2"),
    ],
)
def test_the_device_of_a_rank(monkeypatch, wanted, gpus, local_rank, expected):
    see(monkeypatch, gpus)
    assert choose_device(parse({**BASE, "device": wanted}), local_rank) == torch.device(expected)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    see(monkeypatch, gpus=2)
    parse({**BASE, "device": "cuda:1"})
    with pytest.raises(ConfigError, match="device: 'cuda:2' is wanted, but torch sees 2 GPUs"):
        parse({**BASE, "device": "cuda:2"})


class Half(Method):
    """A method with a client half alone."""

    def message(self, oracle, task, out):
        oracle.gradient(task.x, task.client, None, out)


class Old(SGD):
    """A method whose server half has the name that it had before `rows` and `apply`."""

    def update(self, g, received, round_):
        g.zero_()


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("Half", r"^method: '.*:Half' lacks `apply`; define what Method describes"),
        ("Old", r"^method: Old defines `update`, which nothing calls any more; .* `rows` and `apply`"),
    ],
)
def test_a_method_without_a_server_half_is_refused_with_the_remedy(name, complaint):
    with pytest.raises(ConfigError, match=complaint):
        prepare(parse({**BASE, "method": {"name": f"{__name__}:{name}", "step_size": 0.1, "cohort": 3}}), CPU)
