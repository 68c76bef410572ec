"""Splits: a partition, the same everywhere, with the promised shape."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byzdist.errors import ConfigError
from byzdist.problem import data
from byzdist.problem.data import SPLITS
from tests.support.standins import registered

PARTITIONS = [
    {"name": "iid"},
    {"name": "by_label"},
    {"name": "dirichlet", "alpha": 0.05},
    {"name": "dirichlet", "alpha": 9.0},
]
LABELS = np.random.default_rng(0).integers(10, size=1000)


@pytest.mark.parametrize("spec", PARTITIONS, ids=str)
@settings(max_examples=30, deadline=None)
@given(samples=st.integers(1, 300), classes=st.integers(1, 12), data_=st.data())
def test_every_sample_has_one_owner_and_no_client_is_empty(spec, samples, classes, data_):
    count = data_.draw(st.integers(1, samples))
    labels = np.random.default_rng(samples).integers(classes, size=samples)
    split = data.split(spec, labels, count, seed=3)
    shards = [split.indices(client) for client in range(count)]
    assert all(len(shard) == split.size(client) > 0 for client, shard in enumerate(shards))
    assert all((np.diff(shard) > 0).all() for shard in shards)
    np.testing.assert_array_equal(np.sort(np.concatenate(shards)), np.arange(samples))
    assert len({split.shard(client) for client in range(count)}) == count


@pytest.mark.parametrize("spec", PARTITIONS, ids=str)
def test_splits_are_repeatable_and_depend_on_the_seed(spec):
    first, again, other = (data.split(spec, LABELS, 20, seed) for seed in (1, 1, 2))
    for client in range(20):
        np.testing.assert_array_equal(first.indices(client), again.indices(client))
    assert any(not np.array_equal(first.indices(client), other.indices(client)) for client in range(20))


def test_shared_gives_everything_to_everyone():
    split = data.split({"name": "shared"}, LABELS, 5000, seed=0)  # more clients than samples
    assert split.indices(4999) is None and split.size(4999) == 1000
    assert split.shard(0) == split.shard(4999)


@pytest.mark.parametrize("spec", PARTITIONS, ids=str)
def test_the_data_are_dealt_to_the_honest_clients_and_the_others_hold_copies(spec):
    split, alone = data.split(spec, LABELS, 20, 3, byzantine=5), data.split(spec, LABELS, 15, 3)
    for client in range(20):
        np.testing.assert_array_equal(split.indices(client), alone.indices(client % 15))
        assert split.size(client) == alone.size(client % 15)
    assert split.shard(17) == split.shard(2) and len({split.shard(client) for client in range(15)}) == 15
    np.testing.assert_array_equal(split.table(LABELS, 10), alone.table(LABELS, 10)[[*range(15), *range(5)]])
    among_all = data.split({**spec, "holders": "all"}, LABELS, 20, 3, byzantine=5)
    without = data.split(spec, LABELS, 20, 3)
    for client in range(20):
        np.testing.assert_array_equal(among_all.indices(client), without.indices(client))


def test_copies_do_not_change_the_loss_of_the_honest_and_sizes_may_be_many():
    split = data.split({"name": "iid"}, LABELS, 999, 0, byzantine=450)
    assert sum(split.size(client) for client in range(549)) == 1000
    assert [split.size(549 + i) for i in range(450)] == [split.size(i) for i in range(450)]


@pytest.mark.parametrize("holders, rare", [("honest", []), ("all", ["5", "6", "7", "8", "9"])])
def test_classes_that_one_honest_client_holds_are_named(holders, rare, caplog):
    """10 labels, 20 clients, 5 of them Byzantine, by label: among all, five labels are left with one honest client each."""
    labels = np.repeat(np.arange(10), 100)
    table = data.split({"name": "by_label", "holders": holders}, labels, 20, 0, 5).table(labels, 10)
    data.warn_of_rare_classes(table, 15)
    named = [record.getMessage().split("class ")[1].split(", and")[0].split(", ") for record in caplog.records]
    assert named == ([rare] if rare else [])
    assert sorted(np.flatnonzero((table[:15] > 0).sum(axis=0) < 2).tolist()) == [int(label) for label in rare]


@pytest.mark.parametrize("name", ["iid", "by_label"])
def test_shards_are_of_equal_size(name):
    split = data.split({"name": name}, LABELS, 30, seed=0)
    assert {split.size(client) for client in range(30)} == {33, 34}


def test_iid_shards_have_the_labels_of_the_whole():
    labels = np.random.default_rng(1).integers(2, size=40000)
    table = data.split({"name": "iid"}, labels, 4, seed=0).table(labels, 2)
    np.testing.assert_allclose(table / table.sum(1, keepdims=True), 0.5, atol=0.02)


@pytest.mark.parametrize("count", [10, 20, 25, 40])
def test_by_label_gives_a_client_few_labels_and_the_first_clients_all_of_them(count):
    labels = np.repeat(np.arange(10), 200)
    table = data.split({"name": "by_label"}, labels, count, seed=0).table(labels, 10)
    assert ((table > 0).sum(1) <= 2).all()
    assert (table[:10].sum(0) > 0).all()


def test_alpha_makes_clients_alike_or_not():
    labels = np.random.default_rng(1).integers(10, size=20000)
    tables = [
        data.split({"name": "dirichlet", "alpha": alpha}, labels, 10, seed=0).table(labels, 10)
        for alpha in (0.1, 1000.0)
    ]
    shares = [table / table.sum(0) for table in tables]
    assert shares[0].max(0).mean() > 0.4  # most of a label lies with one client
    np.testing.assert_allclose(shares[1], 0.1, atol=0.03)


def test_dirichlet_shares_have_the_variance_of_the_law():
    """Var of a share of a Dirichlet(alpha, ..., alpha) law over n clients is (n - 1) / (n² (n alpha + 1))."""
    labels = np.repeat(np.arange(400), 100)
    table = data.split({"name": "dirichlet", "alpha": 0.5}, labels, 5, seed=0).table(labels, 400)
    assert np.var(table / 100) == pytest.approx(4 / (25 * 3.5), rel=0.1)


def test_many_clients_of_a_skewed_split_all_have_samples():
    labels = np.random.default_rng(1).integers(10, size=12000)
    split = data.split({"name": "dirichlet", "alpha": 0.01}, labels, 10000, seed=0)
    assert min(split.size(client) for client in range(10000)) == 1


def test_the_table_counts_labels_and_is_written_as_csv(tmp_path):
    labels = np.array([0, 0, 2, 2, 2, 1])
    for spec in ({"name": "iid"}, {"name": "shared"}):
        split = data.split(spec, labels, 3, seed=0)
        table = split.table(labels, 4)
        for client in range(3):
            held = labels if split.indices(client) is None else labels[split.indices(client)]
            np.testing.assert_array_equal(table[client], [(held == label).sum() for label in range(4)])
        data.write_table(split, table, tmp_path / "clients.csv")
        with (tmp_path / "clients.csv").open(newline="") as file:
            rows = list(csv.reader(file))
        assert rows[0] == ["client", "samples", "label_0", "label_1", "label_2", "label_3"]
        assert [[int(cell) for cell in row] for row in rows[1:]] == [
            [client, table[client].sum(), *table[client]] for client in range(3)
        ]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "iid"}, "1001 clients"),
        ({"name": "dirichlet"}, r"data\.split\.alpha: this key is required"),
        ({"name": "dirichlet", "alpha": 0.0}, r"data\.split\.alpha"),
        ({"name": "iid", "alpha": 1.0}, r"data\.split\.alpha: unknown key"),
        ({"name": "idd"}, "Did you mean 'iid'"),
        ({"name": "iid", "holders": "good"}, r"data\.split\.holders: should be 'honest' or 'all' \(it is 'good'\)"),
        ({"name": "shared", "holders": "all"}, r"data\.split\.holders: with the split 'shared' all clients"),
    ],
)
def test_wrong_splits_name_the_key(spec, message):
    with pytest.raises(ConfigError, match=message):
        data.split(spec, LABELS, 1001, seed=0)


@pytest.mark.parametrize("owners", [np.zeros(1000, int), np.arange(1000) % 4, np.arange(1000) % 6, np.arange(900) % 5])
def test_what_a_users_split_gives_is_checked(owners):
    split = registered(SPLITS, mine=lambda labels, count, generator: owners)
    with split, pytest.raises(ConfigError, match="must give each sample"):
        data.split({"name": "mine"}, LABELS, 5, seed=0)
