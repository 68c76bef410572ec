"""Data that are read lazily: the same bits as the arrays they wrap, augmentation keyed by client and round, and what is refused."""

import logging
import random
import re

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from byzdist.config.reading import parse
from byzdist.errors import ConfigError, RunError
from byzdist.problem import data
from byzdist.problem.data import DATASETS, Lazy, Split
from byzdist.problem.data.generators import draw_seeds, global_generators
from byzdist.problem.dataset_data import DatasetData, pooled_data
from byzdist.problem.task import Task
from byzdist.problem.tasks.regression import regression
from byzdist.randomness import stream
from byzdist.rounds import Round
from byzdist.runtime.experiment import prepare
from tests.support.cases import BASE
from tests.support.inprocess import train
from tests.support.standins import registered

N, FEATURES = 90, 12
X = np.random.default_rng(3).standard_normal((N, FEATURES))
Y = (X[:, 0] + 0.3 * np.random.default_rng(4).standard_normal(N) > 0).astype(np.int64)


class Wrapped(TorchDataset):
    def __init__(self, x=X, y=Y, tells=True):
        self.x, self.y = x, y
        if tells:
            self.targets = y.tolist()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


class Augmented(Wrapped):
    """Noise of each of the three global generators, in a column of its own."""

    def __getitem__(self, index):
        x = np.array(self.x[index])
        x[0], x[1], x[2] = random.random(), np.random.rand(), float(torch.rand(()))
        return x, self.y[index]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BYZDIST_CACHE", str(tmp_path / "cache"))


def name_of(made):
    """Names of their own, as arrays are kept in the cache by the name of their function."""
    return "arrays" if isinstance(made, tuple) and isinstance(made[0], np.ndarray) else "mine"


def load(made, **options):
    with registered(DATASETS, **{name_of(made): lambda: made}):
        return data.load({"name": name_of(made)}, **options)


def held(made, clients=3, **options):
    dataset = load(made)
    split = data.split({"name": "iid"}, dataset.labels, clients, 0)
    return pooled_data(dataset, split, **options)


def run(made, folder, workers=2, split="iid", **changes):
    folder.mkdir()
    with registered(DATASETS, **{name_of(made): lambda: made}):
        return train(
            {**BASE, "data": {"name": name_of(made), "split": split}, "rounds": 12, **changes}, folder, workers
        )


def losses(trained):
    return [{k: v for k, v in line.items() if k in ("loss", "grad_norm", "accuracy")} for line in trained.metrics]


@pytest.mark.parametrize(
    "changes",
    [{"dtype": "float32"}, {"attack": "label_flip"}, {"dtype": "float32", "split": "shared", "attack": "label_flip"}],
)
def test_a_dataset_gives_the_bits_of_the_arrays_that_it_wraps(tmp_path, changes):
    arrays = run((X, Y, X[:20], Y[:20]), tmp_path / "arrays", **changes)
    lazy = run((Wrapped(), Wrapped(X[:20], Y[:20])), tmp_path / "lazy", **changes)
    assert isinstance(lazy.experiment.data, DatasetData) and not isinstance(arrays.experiment.data, DatasetData)
    assert torch.equal(arrays.x, lazy.x) and torch.equal(arrays.g, lazy.g)
    assert losses(arrays) == losses(lazy) and any("accuracy" in line for line in losses(lazy))


FORMS = {
    "DataLoader": lambda: DataLoader(Wrapped(), batch_size=8, shuffle=True),
    "TensorDataset": lambda: TensorDataset(torch.tensor(X), torch.tensor(Y)),
    "Subset": lambda: Subset(Wrapped(np.concatenate([X[:5], X]), np.concatenate([Y[:5], Y])), range(5, 95)),
    "Lazy": lambda: Lazy(Wrapped(tells=False), outputs=2),
    "collate": lambda: Lazy(
        Wrapped(), collate=lambda pairs: tuple(torch.tensor(np.array(c)) for c in zip(*pairs, strict=True))
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_samples(form):
    wanted = held((X, Y))
    for client in range(3):
        pairs = zip(
            wanted.batches(client, None, Round(0, 0)),
            held(FORMS[form]()).batches(client, None, Round(0, 0)),
            strict=True,
        )
        for ((x, y), samples), ((lazy_x, lazy_y), lazy_samples) in pairs:
            assert samples == lazy_samples and torch.equal(x, lazy_x) and torch.equal(y, lazy_y)


def test_the_augmentation_depends_on_client_and_round_alone():
    few = np.arange(4)

    def read(client, number, seed=1, data=None):
        ((x, _), samples), *rest = (data or held(Augmented())).batches(client, few, Round(number, seed))
        assert samples == 4 and not rest
        return x[:, :3]

    first = read(1, 7)
    shared = held(Augmented())
    for client in (2, 0, 1):  # whatever was read before
        read(client, 3, data=shared)
    assert torch.equal(read(1, 7, data=shared), first)
    for other in (read(2, 7), read(1, 8), read(1, 7, seed=2)):
        assert not (other == first).any()  # in any column: each of the generators is seeded
    assert len(np.unique(first)) == first.numel()  # and each sample has draws of its own


def test_the_users_generators_are_left_as_they_are():
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    wanted = random.random(), np.random.rand(), float(torch.rand(()))
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    for _ in held(Augmented()).batches(0, None, Round(0, 0)):
        pass
    with pytest.raises(ZeroDivisionError), global_generators(draw_seeds(stream(0, "test"))):
        random.random(), np.random.rand(), torch.rand(()), 1 / 0
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == wanted


class Noted(Augmented):
    """Notes what it gives."""

    given: list[tuple[int, float]] = []

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        self.given.append((index, float(x[0])))
        return x, y


def test_both_points_of_a_difference_see_one_batch_read_once():
    with registered(DATASETS, mine=lambda: Noted()):
        experiment = prepare(parse({**BASE, "data": {"name": "mine", "split": "iid"}}), torch.device("cpu"))
    oracle = experiment.oracle
    few, out = np.array([3, 0, 5]), torch.empty(oracle.dimension, dtype=torch.float64)
    new, old = torch.ones_like(out), torch.zeros_like(out)
    oracle.begin(Round(4, 5), new, old)
    Noted.given.clear()
    oracle.difference(new, old, 1, few, out)
    indices = experiment.shared_data.indices(1, few).tolist()
    assert [index for index, _ in Noted.given] == indices
    seen = [noise for _, noise in Noted.given]
    gradients = []
    for x in (new, old):
        gradients.append(torch.empty_like(out))
        oracle.gradient(x, 1, few, gradients[-1])
    assert [noise for _, noise in Noted.given] == 3 * seen  # the same again, because client and round are the same
    assert torch.allclose(out, gradients[0] - gradients[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("split", ["iid", "shared"])
def test_an_augmented_run_does_not_depend_on_the_number_of_workers(tmp_path, split):
    found = [run(Augmented(), tmp_path / str(w), w, split) for w in (1, 4)]
    plain = run(Wrapped(), tmp_path / "plain", split=split)
    assert torch.equal(found[0].x, found[1].x) and losses(found[0]) == losses(found[1])
    assert not torch.equal(found[0].x, plain.x)


def test_the_server_evaluates_with_the_same_draws_each_time():
    samples = held(Augmented(), chunk=40)
    first, again = ([x for (x, _), _ in samples.blocks(None)] for _ in range(2))
    assert [len(x) for x in first] == [40, 40, 10]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_a_data_loader_says_what_of_it_does_not_count(caplog):
    loader = DataLoader(
        Wrapped(), batch_size=16, shuffle=True, collate_fn=lambda pairs: torch.utils.data.default_collate(pairs[::-1])
    )
    with registered(DATASETS, mine=lambda: loader), caplog.at_level(logging.WARNING, logger="byzdist"):
        experiment = prepare(parse({**BASE, "data": "mine"}), torch.device("cpu"))
    assert re.search("its sampler and its worker processes are not", caplog.text)
    assert (
        "method.batch_size is 8, and the data's DataLoader has batches of 16; method.batch_size is used" in caplog.text
    )
    ((x, _), _), *_ = experiment.data.batches(0, np.arange(3), Round(0, 0))
    assert np.array_equal(x, X[2::-1])  # its collate_fn


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


class Breaking(Wrapped):
    def __getitem__(self, index):
        return self.x[index], dict[str, int]()["target"] if index == 40 else self.y[index]


class Ragged(Wrapped):
    def __getitem__(self, index):
        return self.x[index][: 12 - index % 2], self.y[index]


class Words(Wrapped):
    def __getitem__(self, index):
        return self.x[index], "cat"


class One(Wrapped):
    def __getitem__(self, index):
        return self.x[index]


REFUSED = {
    "IterableDataset": (Stream(), "an IterableDataset, .* Return a map-style Dataset"),
    "a loader of one": (DataLoader(Stream()), "an IterableDataset"),
    "no length": (Lazy(iter([])), "a list_iterator without __len__ or __getitem__"),
    "empty": (Wrapped(X[:0], Y[:0]), "without a sample"),
    "classes not known": (Wrapped(tells=False), r"does not tell how many classes.*Lazy\(dataset, outputs=.*targets"),
    "ragged": (Ragged(), r"for a trial: collating samples 0, 1, 2, 3, \.\.\. ended with RuntimeError"),
    "words": (Words(), "has a (list|tuple) as targets, not a tensor"),
    "no targets": (One(), r"is a Tensor; the task wants \(inputs, targets\)"),
    "not a number": (Wrapped(np.where(X == X[3, 4], np.nan, X)), "inputs that are NaN"),
    "negative": (Wrapped(y=Y - 1), "targets from -1 to 0"),
    "more than outputs": (Lazy(Wrapped(tells=False), outputs=1), "targets from 0 to 1, not the integers 0 to 0"),
    "numbers": (Wrapped(y=Y + 0.5), "targets that are not integers; .*task=regression"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_what_to_do(name):
    made, complaint = REFUSED[name]
    with pytest.raises(ConfigError, match=rf"^data: 'mine' .*{complaint}"):
        load(made)


def test_an_error_while_reading_names_client_sample_and_place():
    breaking = held(Breaking(), clients=1)
    with pytest.raises(
        RunError,
        match=r"'mine' cannot be read for client 0: sample 40 ended with KeyError: 'target' \(.*test_lazy.py:\d+",
    ):
        list(breaking.batches(0, np.array([1, 40]), Round(0, 0)))
    assert len(list(breaking.batches(0, np.array([1, 41]), Round(0, 0)))) == 1
    with pytest.raises(RunError, match="for the server: sample 40"):
        list(breaking.blocks(None))


def test_classes_beyond_those_told_are_found_when_they_are_read():
    late = held(Lazy(Wrapped(y=np.where(np.arange(N) == 50, 7, Y), tells=False), outputs=2), clients=1)
    with pytest.raises(
        RunError, match="client 0: the batch of samples 50, 51 has targets from . to 7, not the integers 0 to 1"
    ):
        list(late.batches(0, np.array([50, 51]), Round(0, 0)))


def test_splits_by_class_want_targets_that_are_told():
    dataset = load(Lazy(Wrapped(tells=False), outputs=2))
    with pytest.raises(ConfigError, match="data.split: 'by_label' goes by classes.*`targets`"):
        data.split({"name": "by_label"}, dataset.labels, 3, 0)
    assert isinstance(data.split({"name": "iid"}, dataset.labels, 3, 0), Split)
    by_label = data.split({"name": "by_label"}, load(Wrapped()).labels, 3, 0)
    assert by_label.table(Y, 2).sum() == N


def test_targets_that_are_not_what_is_read_are_not_used(caplog):
    turned = Wrapped()
    turned.targets = (1 - Y).tolist()
    dataset = load(Lazy(turned, outputs=2))
    assert dataset.labels.dtype.kind == "f" and "reads other targets than those in its `targets`" in caplog.text


def test_a_generator_of_its_own_is_said_to_prevent_a_repetition(caplog):
    class Own(Wrapped):
        generator = np.random.default_rng(0)

        def __getitem__(self, index):
            return self.x[index] + self.generator.random(), self.y[index]

    dataset = load(Own())
    assert not dataset.repeatable and "the run cannot be repeated" in caplog.text and not dataset.some(1).size
    assert load(Augmented()).repeatable


def test_numbers_to_predict_and_integers_come_in_the_dtype_of_the_run():
    images = (np.abs(X) * 50).astype(np.uint8)
    dataset = load(Wrapped(images, X[:, :2]), dtype="float32", task=regression())
    (inputs, targets), _ = next(iter(pooled_data(dataset, Split(N, 1, None)).blocks(np.arange(5))))
    assert inputs.dtype == targets.dtype == torch.float32 and dataset.classes == 2
    assert np.array_equal(inputs, images[:5]) and np.array_equal(targets, X[:5, :2].astype(np.float32))


class Parts(Wrapped):
    """Features in two parts, as inputs that are not a tensor."""

    def __getitem__(self, index):
        return {"first": self.x[index][:5], "rest": (self.x[index][5:], index)}, self.y[index]


def joined(feature_shape, classes):
    class Joined(torch.nn.Linear):
        def forward(self, inputs):
            if isinstance(inputs, dict):
                assert inputs["rest"][1].dtype == torch.int64
                inputs = torch.cat([inputs["first"], inputs["rest"][0]], 1)
            return super().forward(inputs)

    return Joined(FEATURES, classes)


def test_inputs_may_have_any_form_that_the_model_takes(tmp_path):
    model = {"model": f"{__name__}:joined", "dtype": "float32"}
    parts, arrays = run(Parts(), tmp_path / "parts", **model), run((X, Y), tmp_path / "arrays", **model)
    assert parts.experiment.dataset.feature_shape == () and torch.equal(parts.x, arrays.x)
    assert losses(parts) == losses(arrays)


class Summed(Wrapped):
    """A batch of a form of its own, for a task of its own."""

    def __getitem__(self, index):
        return {"x": self.x[index], "y": self.y[index]}


def own_task():
    return Task(lambda model, batch: torch.nn.functional.cross_entropy(model(batch["x"]), batch["y"]))


def test_a_task_of_ones_own_gets_what_the_collate_makes(tmp_path):
    changes = {"model": f"{__name__}:joined", "dtype": "float32", "attack": "none"}
    own = run(Lazy(Summed(), outputs=2), tmp_path / "own", task=f"{__name__}:own_task", **changes)
    arrays = run((X, Y), tmp_path / "arrays", **changes)
    assert torch.equal(own.x, arrays.x)
