"""A user's own data may be anything like an array; errors say what is wrong with it and what to do."""

import logging
import re
import sys

import numpy as np
import pytest
import scipy.sparse
import torch

from byzdist.cli.main import main
from byzdist.errors import ConfigError
from byzdist.problem import data
from byzdist.problem.data import DATASETS, RawData
from byzdist.problem.data.arrays import as_arrays
from tests.support.standins import registered

X = np.array([[0.5, 1.0, 2.0], [0.0, -1.0, 3.0], [4.0, 0.0, 0.25], [1.0, 1.0, 1.0]])
Y = np.array([0, 1, 1, 0])
F64 = np.dtype(np.float64)


class Frame:
    """A data frame as far as pandas, polars and their like have it in common."""

    def __init__(self, array, columns):
        self.array, self.columns = array, columns

    def to_numpy(self):
        return self.array


class Arraylike:
    def __array__(self, dtype=None, copy=None):
        return np.array(X, dtype)


FEATURES = {
    "array": X,
    "Fortran order": np.asfortranarray(X),
    "float32": X.astype(np.float32),
    "a view backwards": X[::-1][::-1],
    "read only": np.broadcast_to(X, X.shape),
    "tensor": torch.tensor(X),
    "tensor with a gradient": torch.tensor(X, requires_grad=True),
    "bfloat16": torch.tensor(X).bfloat16(),
    "float16": torch.tensor(X).half(),
    "conjugate view": torch.tensor(X).conj(),
    "list": X.tolist(),
    "tuple of tuples": tuple(map(tuple, X.tolist())),
    "list of arrays": list(X),
    "list of tensors": list(torch.tensor(X)),
    "csr": scipy.sparse.csr_matrix(X),
    "csc array": scipy.sparse.csc_array(X),
    "coo": scipy.sparse.coo_matrix(X),
    "frame": Frame(X, ["a", "b", "c"]),
    "frame of objects": Frame(X.astype(object), ["a", "b", "c"]),
    "numbers as text": X.astype(str),
    "something with __array__": Arraylike(),
    "masked, but nothing is": np.ma.masked_array(X, mask=False),
}
LABELS = {
    "array": Y,
    "int8": Y.astype(np.int8),
    "uint64": Y.astype(np.uint64),
    "bool": Y.astype(bool),
    "whole floats": Y.astype(float),
    "column": Y[:, None],
    "list": Y.tolist(),
    "tensor": torch.tensor(Y),
    "float tensor": torch.tensor(Y).float(),
    "series": Frame(Y, None),
    "objects": Y.astype(object),
    "column of a frame": Frame(Y[:, None].astype(object), ["y"]),
}


@pytest.mark.parametrize("name", FEATURES)
def test_features_may_be_whatever_is_like_an_array(name):
    found = as_arrays((FEATURES[name], Y), "mine", F64)
    assert np.array_equal(found["features"], X) and found["features"].flags.c_contiguous
    assert found["features"].dtype == np.float64 and found.keys() == {"features", "labels"}


@pytest.mark.parametrize("name", LABELS)
def test_labels_may_be_whatever_is_like_an_array(name):
    found = as_arrays((X, LABELS[name]), "mine", F64)
    assert np.array_equal(found["labels"], Y) and found["labels"].dtype == np.int64


@pytest.mark.parametrize(
    "returned", [RawData(X, Y, X[:2], Y[:2]), (X, Y, X[:2], Y[:2]), [X.tolist(), Y.tolist(), X[:2], Y[:2]]]
)
def test_a_test_set_may_come_along(returned):
    found = as_arrays(returned, "mine", np.dtype(np.float32))
    assert np.array_equal(found["test_features"], X[:2]) and np.array_equal(found["test_labels"], Y[:2])
    assert found["test_features"].dtype == np.float32


def test_pandas_frames_and_series():
    pandas = pytest.importorskip("pandas")
    found = as_arrays((pandas.DataFrame(X), pandas.Series(Y)), "mine", F64)
    assert np.array_equal(found["features"], X) and np.array_equal(found["labels"], Y)
    frame = pandas.DataFrame({"age": [3, 4], "city": ["Bern", "Ulm"]})
    with pytest.raises(ConfigError, match="'Bern' at column 'city'"):
        as_arrays((frame, [0, 1]), "mine", F64)


class Dataset:
    def __getitem__(self, index):
        return X[index], Y[index]


TALL = np.arange(200.0)[:, None] + np.zeros((200, 2))
WRONG = {
    "nothing": (None, "returns a NoneType; return .X, y."),
    "one thing": (X, "returns a ndarray"),
    "three things": ((X, Y, X), "returns 3 things"),
    "a data set of torch's": (Dataset(), "returns a Dataset"),
    "a dictionary": ({"X": X, "y": Y}, "returns a dict"),
    "ragged rows": (([[1.0, 2.0], [3.0]], [0, 1]), "not an array: .*Do all samples have one shape"),
    "text": ((np.array([["a", "b"]] * 4), Y), r"not numbers: 'a' at \[0, 0\]"),
    "a word among numbers": ((np.array([[1, 2], [3, "x"], [1, 1], [1, 1]], object), Y), r"'x' at \[1, 1\]"),
    "a word in a column": ((Frame(np.array([[1, "x"]] * 4, object), ["age", "city"]), Y), "'x' at column 'city'"),
    "None among numbers": ((np.array([[1, None]] * 4, object), Y), r"NaN or infinite, the first at \[0, 1\]"),
    "complex numbers": ((X + 1j, Y), "complex128, which are not real numbers"),
    "dates": ((np.full((4, 2), np.datetime64("2024-01-01")), Y), "datetime64.*not real numbers"),
    "masked": ((np.ma.masked_equal(X, 1.0), Y), "masked"),
    "NaN": ((np.where(X == 4, np.nan, X), Y), r"NaN or infinite, the first at \[2, 0\]"),
    "infinity": ((np.where(X == 4, np.inf, X), Y), r"NaN or infinite, the first at \[2, 0\]"),
    "no columns": ((np.zeros((4, 0)), Y), "shapes"),
    "one feature": ((X[:, 0], Y), r"shapes .*X\[:, None\]"),
    "fewer labels": ((X, Y[:3]), "shapes"),
    "one-hot": ((X, np.eye(2)[Y]), r"one-hot.*argmax\(1\)"),
    "several labels": ((X, np.ones((len(X), 3), int)), r"want one class for each sample, \[N\]. .*task=multi_label"),
    "names of classes": ((X, ["cat", "dog", "dog", "cat"]), r"'cat'.*integers 0, 1.*np.unique"),
    "names of classes in a series": ((X, Frame(np.array(["cat", "dog"] * 2, object), None)), "'cat'.*np.unique"),
    "plus and minus one": ((X, 2 * Y - 1), r"labels -1 and 1, not the integers 0, 1.*np.unique"),
    "numbers to predict": ((X, [0.5, 1.25, 3.0, 2.0]), "0.5.*numbers to predict.*task=regression"),
    "years": ((TALL, 1922 + np.arange(200) % 90), "90 labels from 1922 to 2011.*numbers to predict"),
    "labels that are NaN": ((X, [0.0, np.nan, 1.0, 1.0]), "nan"),
    "labels that are huge": ((X, [0.0, 1e30, 1.0, 1.0]), "1e\\+30"),
    "labels beyond 63 bits": ((X, np.array([0, 2**64 - 1, 1, 1], np.uint64)), "18446744073709551615"),
    "a huge id": ((X, [0, 1, 10**15, 1]), "labels from 0 to 1000000000000000"),
    "one class": ((X, np.ones(4, int)), "one class only, label 1"),
    "labels without features": ((X, Y, None, Y), "test features without labels"),
    "test labels of other classes": ((X, Y, X, Y + 1), "test labels from 1 to 2"),
    "test features of another shape": ((X, Y, X[:, :2], Y), "another shape"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_learned_from_is_refused_with_what_to_do(name):
    returned, complaint = WRONG[name]
    with pytest.raises(ConfigError, match=rf"(?s)data\.name: 'mine' .*{complaint}"):
        as_arrays(returned, "mine", F64)


@pytest.mark.parametrize("largest", [1e39, 1e300, -1e300])
def test_what_becomes_infinite_in_the_last_cast_is_refused(largest):
    features = np.where(X == 4, largest, X)
    assert np.isfinite(as_arrays((features, Y), "mine", F64)["features"]).all()
    for returned in (
        (features, Y),
        (torch.tensor(features), Y),
        (X, Y, features, Y),
        (scipy.sparse.csr_matrix(features), Y),
    ):
        with pytest.raises(ConfigError, match=r"up to 1e\+3\d+, too large for float32.*dtype=float64"):
            as_arrays(returned, "mine", np.dtype(np.float32))
    assert np.isfinite(as_arrays((X * 1e38 / 4, Y), "mine", np.dtype(np.float32))["features"]).all()


@pytest.mark.parametrize(
    "labels, words",
    [
        ([1, 2, 3, 1], "no sample has label 0.*1 to 3.*Take 1 from each"),
        ([0, 1, 3, 3], "classes 2 have no sample.*np.unique"),
        ([0, 1, 2, 3], None),
        ([0, 1, 0, 1], None),
    ],
)
def test_classes_that_nobody_holds_are_said_each_time(tmp_path, caplog, labels, words):
    for _ in range(2):  # from the function, and from the cache
        caplog.clear()
        with registered(DATASETS, mine=lambda: (X, labels)), caplog.at_level(logging.WARNING, logger="byzdist"):
            data.load({"name": "mine"}, tmp_path)
        assert len(caplog.messages) == (words is not None)
        assert words is None or re.search(words, caplog.text)


def test_as_many_classes_as_samples_are_doubted(tmp_path, caplog):
    with registered(DATASETS, mine=lambda: (TALL, np.arange(200) // 1.5 // 1)):
        data.load({"name": "mine"}, tmp_path)
    assert "numbers to predict" in caplog.text


FAILURES = {
    "KeyError": ('    return {}["x"]', r"KeyError: 'x' \(.*own_data_module.py:4, in data\)"),
    "a file that is not there": ('    open("/nowhere/x")', r"FileNotFoundError: .*own_data_module.py:4, in data\)"),
    "full": ('    raise OSError(28, "No space left on device")', r"OSError: .*No space left.*own_data_module.py:4"),
    "deep within numpy": (
        "    return np.load('/nowhere/x.npy')",
        r"FileNotFoundError.*own_data_module.py:4, in data\)",
    ),
    "an exit": ("    raise SystemExit('no data today')", r"SystemExit: no data today \(.*own_data_module.py:4"),
    "without end": ("    return data()", r"RecursionError.*own_data_module.py:4, in data\)"),
    "an error without words": ("    raise ValueError", r"ValueError \(.*own_data_module.py:4"),
    "an assertion": ("    assert 1 == 2, 'odd'", r"AssertionError: odd \(.*own_data_module.py:4"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_a_data_function_raises_is_shown_with_its_place(tmp_path, monkeypatch, name):
    body, complaint = FAILURES[name]
    (tmp_path / "own_data_module.py").write_text(f"import numpy as np\n\ndef data():\n{body}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("own_data_module", None)
    with pytest.raises(ConfigError, match=rf"data: 'own_data_module:data' ended with {complaint}"):
        data.load({"name": "own_data_module:data"}, tmp_path / "cache")
    sys.modules.pop("own_data_module", None)


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("x = 1 / 0\n", r"ZeroDivisionError: division by zero \(.*own_broken_module.py:1"),
        ("def f(:\n", r"SyntaxError: .*own_broken_module.py:1\)"),
        ("import own_broken_module.deeper\n", "own_broken_module"),
    ],
)
def test_what_a_users_module_raises_is_shown_with_its_place(tmp_path, monkeypatch, text, complaint):
    (tmp_path / "own_broken_module.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=f"cannot import 'own_broken_module:f': .*{complaint}"):
        DATASETS.check({"name": "own_broken_module:f"}, "data")


def test_memory_that_does_not_suffice_is_not_taken_for_a_mistake_of_the_function(tmp_path):
    def greedy():
        raise MemoryError("too much")

    with registered(DATASETS, mine=greedy), pytest.raises(MemoryError):
        data.load({"name": "mine"}, tmp_path)


def test_the_command_line_says_it_in_one_line(tmp_path, monkeypatch, capsys):
    from tests.support.cases import BASE
    from tests.support.harness import write_config

    (tmp_path / "own_failing.py").write_text("def data():\n    raise KeyError('age')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["run", str(write_config(tmp_path, BASE | {"data": "own_failing:data"}))]) == 2
    said = capsys.readouterr().err
    assert "own_failing.py:2, in data" in said and said.count("\n") == 1
