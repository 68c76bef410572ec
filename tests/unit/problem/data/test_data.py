"""Data sets: what is read is what the files hold; one process prepares, all map; bad files are refused early."""

import gzip
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sklearn.datasets

from byzdist.errors import ConfigError
from byzdist.problem.data import DATASETS, RawData
from byzdist.registry import Spec
from tests.support.problem import load_arrays
from tests.support.standins import failing, registered


def write_idx(path, array, magic=None):
    array = np.asarray(array, np.uint8)
    header = bytes([0, 0, 8, array.ndim]) if magic is None else magic
    content = header + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(folder, suffix="", train=7, test=3):
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    parts = {}
    for name, count in (("train", train), ("t10k", test)):
        parts[f"{name}-images-idx3"] = generator.integers(256, size=(count, 28, 28))
        parts[f"{name}-labels-idx1"] = np.arange(count) % 3
    for part, array in parts.items():
        write_idx(folder / f"{part}-ubyte{suffix}", array)
    return {"name": "mnist", "path": str(folder)}, parts


@pytest.mark.parametrize(
    ("spec", "shape", "classes"),
    [({"name": "digits"}, (1797, 64), 10), ({"name": "breast_cancer"}, (569, 30), 2)],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_embedded_data_sets(tmp_path, spec, shape, classes, dtype):
    dataset = load_arrays(spec, tmp_path, dtype)
    assert dataset.features.shape == shape and dataset.features.dtype == dtype
    assert dataset.feature_shape == shape[1:] and dataset.classes == classes
    assert dataset.labels.dtype == np.int64 and set(dataset.labels) == set(range(classes))
    assert dataset.test_features is None and dataset.test_labels is None
    if spec["name"] == "digits":
        assert dataset.features.min() == 0 and dataset.features.max() == 1
    else:
        np.testing.assert_allclose(dataset.features.mean(0), 0, atol=1e-6)
        np.testing.assert_allclose(dataset.features.std(0), 1, atol=1e-6)


def test_synthetic_blobs_are_as_far_apart_as_asked(tmp_path):
    spec = {"name": "synthetic", "samples": 30000, "features": 50, "classes": 30, "separation": 8.0, "test_samples": 9}
    dataset = load_arrays(spec, tmp_path)
    assert dataset.features.shape == (30000, 50) and dataset.test_features.shape == (9, 50)
    centres = np.stack([dataset.features[dataset.labels == label].mean(0) for label in range(30)])
    spread = np.concatenate([dataset.features[dataset.labels == label] - centres[label] for label in range(30)])
    assert spread.std() == pytest.approx(1, rel=0.01)
    squares = np.square(centres[:, None] - centres[None]).sum(2)[np.triu_indices(30, 1)]
    assert np.sqrt(squares.mean()) == pytest.approx(8, rel=0.1)
    again = load_arrays(spec, tmp_path / "other")
    assert np.array_equal(again.features, dataset.features)
    assert not np.array_equal(load_arrays({**spec, "seed": 1}, tmp_path).features, dataset.features)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_files_plain_or_gzipped(tmp_path, suffix):
    spec, parts = write_mnist(tmp_path / "mnist", suffix)
    dataset = load_arrays(spec, tmp_path / "cache", "float32")
    expected = (parts["train-images-idx3"] / 255 - 0.1307) / 0.3081
    np.testing.assert_allclose(dataset.features, expected, atol=1e-6)
    np.testing.assert_array_equal(dataset.test_labels, parts["t10k-labels-idx1"])
    assert dataset.feature_shape == (28, 28) and dataset.classes == 3


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda f: (f / "t10k-labels-idx1-ubyte").unlink(), "t10k-labels-idx1-ubyte"),
        (lambda f: write_idx(f / "train-labels-idx1-ubyte", np.zeros(7), magic=b"\0\0\x0d\1"), "does not begin like"),
        (lambda f: (f / "train-labels-idx1-ubyte").write_bytes(b"\0\0"), "does not begin like"),
        (lambda f: (f / "train-labels-idx1-ubyte").write_bytes(b"\x1f\x8bgarbage"), "cannot be read"),
        (lambda f: write_idx(f / "train-labels-idx1-ubyte", np.zeros(6)), "do not belong together"),
    ],
)
def test_wrong_mnist_folders_are_refused_before_anything_is_loaded(tmp_path, damage, word):
    spec, _ = write_mnist(tmp_path / "mnist")
    assert DATASETS.check(spec, "data") == Spec.of({**spec, "subset": None})
    damage(tmp_path / "mnist")
    with pytest.raises(ConfigError, match=rf"data\.path: .*{word}"):
        DATASETS.check(spec, "data")


def test_a_truncated_mnist_file_is_refused_when_read(tmp_path):
    spec, _ = write_mnist(tmp_path / "mnist")
    file = tmp_path / "mnist" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=r"data\.path: .*header says"):
        load_arrays(spec, tmp_path / "cache")
    assert not list((tmp_path / "cache" / "data").glob("mnist-*/*.npy"))


LINES = "+1 1:0.5 3:2\n-1 2:1e-1\n+1 # nothing\n-1 1:-3 2:4 3:5\n"
DENSE = [[0.5, 0, 2, 0], [0, 0.1, 0, 0], [0, 0, 0, 0], [-3, 4, 5, 0]]


@pytest.mark.parametrize("compressed", [False, True])
def test_libsvm_files_plain_or_gzipped(tmp_path, compressed):
    path, test = tmp_path / "train", tmp_path / "test"
    path.write_bytes(gzip.compress(LINES.encode()) if compressed else LINES.encode())
    test.write_text("-1 1:7\n")  # fewer features than the training file
    spec = {"name": "libsvm", "path": str(path), "test_path": str(test)}
    dataset = load_arrays(spec, tmp_path / "cache")
    np.testing.assert_array_equal(dataset.features, np.array(DENSE)[:, :3])
    np.testing.assert_array_equal(dataset.labels, [1, 0, 1, 0])
    np.testing.assert_array_equal(dataset.test_features, [[7, 0, 0]])
    np.testing.assert_array_equal(dataset.test_labels, [0])
    wider = load_arrays({**spec, "features": 4}, tmp_path / "cache")
    np.testing.assert_array_equal(wider.features, DENSE)


@pytest.mark.parametrize(
    ("train", "test", "features", "test_features"),
    [
        ("1 0:5 1:6\n-1 2:7\n", "1 1:8 2:9\n", [[5, 6, 0], [0, 0, 7]], [[0, 8, 9]]),  # the test file lacks index 0
        ("1 1:6\n-1 2:7\n", "1 0:8 2:9\n", [[0, 6, 0], [0, 0, 7]], [[8, 0, 9]]),  # the training file does
        ("1 1:6\n-1 2:7\n", "1 2:9\n", [[6, 0], [0, 7]], [[0, 9]]),
        ("1 2:6\n-1 3:7\n", "1\n", [[0, 6, 0], [0, 0, 7]], [[0, 0, 0]]),
    ],
)
def test_both_libsvm_files_count_from_the_same_index(tmp_path, train, test, features, test_features):
    (tmp_path / "train").write_text(train)
    (tmp_path / "test").write_text(test)
    spec = {"name": "libsvm", "path": str(tmp_path / "train"), "test_path": str(tmp_path / "test")}
    dataset = load_arrays(spec, tmp_path / "cache")
    np.testing.assert_array_equal(dataset.features, features)
    np.testing.assert_array_equal(dataset.test_features, test_features)


def test_samples_of_libsvm_files_are_scaled_to_length_1_where_asked(tmp_path):
    (tmp_path / "train").write_text(LINES)
    (tmp_path / "test").write_text("-1 1:3 2:4\n")
    spec = {"name": "libsvm", "path": str(tmp_path / "train"), "test_path": str(tmp_path / "test"), "normalize": True}
    dataset = load_arrays(spec, tmp_path / "cache")
    lengths = np.linalg.norm(np.array(DENSE)[:, :3], axis=1, keepdims=True)
    np.testing.assert_allclose(dataset.features, np.array(DENSE)[:, :3] / np.where(lengths > 0, lengths, 1), rtol=1e-15)
    np.testing.assert_allclose(dataset.test_features, [[0.6, 0.8, 0]], rtol=1e-15)


def test_labels_of_libsvm_files_become_0_1_2_in_sorted_order(tmp_path):
    (tmp_path / "a").write_text("7 1:1\n-3 1:1\n2.5 1:1\n7 1:1\n")
    dataset = load_arrays({"name": "libsvm", "path": str(tmp_path / "a")}, tmp_path)
    np.testing.assert_array_equal(dataset.labels, [2, 0, 1, 2])


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"\x89PNG\r\n", "not a LIBSVM file"), (b"", "not a LIBSVM file"), (b"a,b,c\n1,2,3\n", "not a LIBSVM file")],
)
def test_wrong_libsvm_files_are_refused_before_anything_is_loaded(tmp_path, content, word):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"data\.path: .*{word}"):
        DATASETS.check({"name": "libsvm", "path": str(tmp_path / "a")}, "data")


@pytest.mark.parametrize(
    "content", ["1 1:1\n-1 1:x\n", "1 1:1\n-1 0:1 5\n", gzip.compress(b"1 1:1\n" * 9000 + b"-1 2:3\n", mtime=0)[:60]]
)
def test_damage_further_on_in_a_libsvm_file_is_refused_when_read(tmp_path, content):
    (tmp_path / "a").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=r"data\.path: .*cannot be read"):
        load_arrays({"name": "libsvm", "path": str(tmp_path / "a")}, tmp_path)


def test_test_files_that_do_not_fit_are_refused(tmp_path):
    (tmp_path / "a").write_text("1 1:1\n-1 1:2\n")
    (tmp_path / "labels").write_text("3 1:1\n")
    (tmp_path / "wider").write_text("1 2:1\n")
    for name in ("labels", "wider"):
        spec = {"name": "libsvm", "path": str(tmp_path / "a"), "test_path": str(tmp_path / name)}
        with pytest.raises(ConfigError, match=r"data\.test_path"):
            load_arrays(spec, tmp_path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "digits", "path": "x"}, r"data\.path: unknown key"),
        ({"name": "digts"}, "Did you mean 'digits'"),
        ({"name": "libsvm"}, r"data\.path: this key is required"),
        ({"name": "libsvm", "path": "nowhere"}, r"data\.path: there is no such file \(it is 'nowhere'\)"),
        ({"name": "libsvm", "path": "."}, r"data\.path: the file cannot be read"),
        ({"name": "mnist", "path": "nowhere"}, r"data\.path: the folder has no train-images"),
        ({"name": "synthetic", "classes": 1}, r"data\.classes"),
        ({"name": "no_such_module:thing"}, "PYTHONPATH"),
    ],
)
def test_wrong_data_sections_name_the_key(spec, message):
    with pytest.raises(ConfigError, match=message):
        DATASETS.check(spec, "data")


def test_a_changed_file_is_prepared_anew(tmp_path):
    file = tmp_path / "a"
    file.write_text("1 1:1\n-1 1:2\n")
    spec = {"name": "libsvm", "path": str(file)}
    first = load_arrays(spec, tmp_path)
    file.write_text("1 1:1\n-1 1:2\n-1 1:3\n")
    second = load_arrays(spec, tmp_path)
    assert len(first.labels) == 2 and len(second.labels) == 3 and first.key != second.key


def test_the_second_to_come_prepares_nothing(tmp_path):
    first = load_arrays({"name": "digits"}, tmp_path)
    with failing(sklearn.datasets, "load_digits", AssertionError("prepared again")):
        second = load_arrays({"name": "digits"}, tmp_path)
    assert second.key == first.key and np.array_equal(second.features, first.features)
    assert isinstance(second.features, np.memmap)


def test_many_come_at_once_and_one_prepares(tmp_path):
    calls = []

    def counted() -> RawData:
        calls.append(1)
        return RawData(np.arange(20.0).reshape(10, 2), np.arange(10) % 2)

    with registered(DATASETS, counted=counted), ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: load_arrays({"name": "counted"}, tmp_path), range(8)))
    assert len(calls) == 1
    assert all(np.array_equal(dataset.features, np.arange(20.0).reshape(10, 2)) for dataset in found)


def test_a_torn_cache_is_made_anew(tmp_path):
    first = load_arrays({"name": "digits"}, tmp_path)
    expected = np.array(first.features)
    file = next(tmp_path.glob("data/digits-*/features.npy"))
    file.write_bytes(file.read_bytes()[:1000])
    assert np.array_equal(load_arrays({"name": "digits"}, tmp_path).features, expected)


GOOD = np.zeros((4, 2))


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        (RawData(np.full((4, 2), np.nan), np.array([0, 1, 0, 1])), "NaN"),
        (RawData(GOOD, np.array([0, 1, 0])), "shapes"),
        (RawData(GOOD[:0], np.array([], int)), "shapes"),
        (RawData(GOOD, np.array([0.0, 1.5, 0, 1])), "integers"),
        (RawData(GOOD, np.array([-1, 1, -1, 1])), "integers"),
        (RawData(GOOD, np.zeros(4, int)), "one class"),
        (RawData(GOOD, np.array([0, 1, 0, 1]), np.zeros((1, 3)), np.array([0])), "another shape"),
        (RawData(GOOD, np.array([0, 1, 0, 1]), np.zeros((1, 2)), np.array([2])), "integers"),
        (RawData(GOOD, np.array([0, 1, 0, 1]), np.zeros((1, 2))), "without labels"),
    ],
)
def test_what_a_users_function_returns_is_checked(tmp_path, raw, word):
    with registered(DATASETS, mine=lambda: raw), pytest.raises(ConfigError, match=rf"data\.name: 'mine' .*{word}"):
        load_arrays({"name": "mine"}, tmp_path)
