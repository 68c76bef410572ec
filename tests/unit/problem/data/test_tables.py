"""Tables and texts: what is read is what was written, and errors name the place that cannot be read."""

import gzip

import numpy as np
import pytest

from byzdist.errors import ConfigError
from byzdist.problem import data
from byzdist.problem.tasks import TASKS

TASK = {name: TASKS.get(name)() for name in ("classification", "regression", "next_token", "multi_label")}
ROWS = "age,city,label\n30,Oslo,yes\n40,Rome,no\n50,Oslo,yes\n60,Bonn,no\n"


def load(tmp_path, task="classification", **spec):
    return data.load(spec, tmp_path / "cache", task=TASK[task])


def written(tmp_path, text=ROWS, name="table.csv"):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    return str(path)


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz"])
def test_words_become_columns_and_classes(tmp_path, name):
    found = load(tmp_path, name="csv", path=written(tmp_path, name=name), target="label", standardize=False)
    order = [int(np.flatnonzero(found.features[:, 0] == age)[0]) for age in (30, 40, 50, 60)]
    assert found.features[order].tolist() == [
        [30, 0, 1, 0],
        [40, 0, 0, 1],
        [50, 0, 1, 0],
        [60, 1, 0, 0],
    ]  # Bonn, Oslo, Rome
    assert found.labels[order].tolist() == [1, 0, 1, 0] and found.classes == 2


def test_features_are_standardized_by_the_training_part_alone(tmp_path):
    train = written(tmp_path, "x,y\n" + "".join(f"{i},{i * 0.5}\n" for i in range(10)))
    test = written(tmp_path, "x,y\n100,1\n4.5,2\n", "test.csv")
    found = load(tmp_path, "regression", name="csv", path=train, test_path=test, target="y")
    assert found.features.mean() == pytest.approx(0) and found.features.std() == pytest.approx(1)
    spread = np.arange(10).std()
    np.testing.assert_allclose(found.test_features[:, 0], [(100 - 4.5) / spread, 0.0], atol=1e-12)
    assert found.test_labels.tolist() == [1.0, 2.0] and found.classes == 1


def test_a_share_is_held_out_and_no_row_is_lost(tmp_path):
    path = written(tmp_path, "x,y\n" + "".join(f"{i},{i}\n" for i in range(20)))
    found = load(tmp_path, "regression", name="csv", path=path, target="y", test_share=0.25, standardize=False)
    assert len(found.labels) == 15 and len(found.test_labels) == 5
    assert sorted([*found.labels, *found.test_labels]) == list(range(20))
    assert (found.features[:, 0] == found.labels).all()


def test_several_targets_are_columns_of_numbers(tmp_path):
    path = written(tmp_path, "a,b,c\n1,0,1\n2,1,1\n3,0,0\n")
    found = load(tmp_path, "multi_label", name="csv", path=path, target=["b", "c"])
    assert sorted(found.labels.tolist()) == [[0, 0], [0, 1], [1, 1]] and found.classes == 2


@pytest.mark.parametrize(
    ("text", "spec", "complaint"),
    [
        (ROWS, {"target": "income"}, "no column 'income'; the columns are age, city, label"),
        (ROWS, {"target": "label", "drop": ["citty"]}, "no column 'citty'"),
        (ROWS, {"target": "label", "drop": ["age", "city"]}, "nothing to learn from"),
        ("a,b\n1,2\n3\n", {"target": "b"}, "row 2 has 1 entries, and the header 2"),
        ("a,b\n1,2\n,4\n", {"target": "b"}, "row 2 has nothing in column 'a'"),
        ("a,b\n", {"target": "b"}, "no rows below its header"),
        ("a,b\n" + "".join(f"name{i},1\n" for i in range(1001)), {"target": "b"}, "1001 different words"),
        (ROWS, {"target": "label", "delimiter": ";;"}, "delimiter"),
        (ROWS, {"target": "label", "test_share": 1.0}, "test_share"),
    ],
)
def test_a_wrong_table_is_refused_with_its_place(tmp_path, text, spec, complaint):
    with pytest.raises(ConfigError, match=complaint):
        load(tmp_path, name="csv", path=written(tmp_path, text), **spec)


def test_a_table_that_is_not_there_or_not_text_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is no such file"):
        load(tmp_path, name="csv", path=str(tmp_path / "none.csv"), target="y")
    (tmp_path / "binary.csv").write_bytes(b"a,b\n\xff\xfe\x00,1\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path, name="csv", path=str(tmp_path / "binary.csv"), target="b")


def test_a_test_file_with_other_columns_is_refused(tmp_path):
    test = written(tmp_path, "age,label\n1,yes\n", "test.csv")
    with pytest.raises(ConfigError, match=r"data\.test_path.*other columns"):
        load(tmp_path, name="csv", path=written(tmp_path), test_path=test, target="label")


def test_npz_takes_its_arrays_by_name(tmp_path):
    x, y = np.arange(12.0).reshape(4, 3), np.array(["b", "a", "b", "c"])
    np.savez(tmp_path / "f.npz", X=x, y=y, X_test=x[:2], y_test=y[:2])
    found = load(tmp_path, name="npz", path=str(tmp_path / "f.npz"))
    assert found.features.tolist() == x.tolist() and found.labels.tolist() == [1, 0, 1, 2]
    assert found.test_labels.tolist() == [1, 0]
    np.savez(tmp_path / "g.npz", images=x, number=np.array([0.5, 1.5, 2.5, 3.5]))
    found = load(
        tmp_path,
        "regression",
        name="npz",
        path=str(tmp_path / "g.npz"),
        features="images",
        target="number",
        test_share=0.5,
    )
    assert len(found.labels) == len(found.test_labels) == 2


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"X": np.zeros((3, 1))}, "no array 'y'; it has X"),
        ({"X": np.zeros((3, 1)), "y": np.zeros(2)}, "different lengths"),
        ({"X": np.zeros((3, 1)), "y": np.array([{}, {}, {}], object)}, "not a file of numpy.savez"),
    ],
)
def test_a_wrong_npz_is_refused(tmp_path, arrays, complaint):
    np.savez(tmp_path / "f.npz", **arrays)
    with pytest.raises(ConfigError, match=complaint):
        load(tmp_path, name="npz", path=str(tmp_path / "f.npz"))


def test_text_is_windows_of_bytes_and_what_follows_each(tmp_path):
    content = bytes(range(65, 91)) * 4
    (tmp_path / "a.txt").write_bytes(content[:50])
    (tmp_path / "b.md").write_bytes(content[50:])
    for path in (tmp_path, written(tmp_path, content.decode(), "whole.txt.gz")):
        found = load(tmp_path, "next_token", name="text", path=str(path), window=5, test_share=0.1)
        joined = np.frombuffer(content, np.uint8)
        windows = (len(content) - 1) // 5
        assert len(found.labels) + len(found.test_labels) == windows and found.features.dtype == np.int64
        together = np.concatenate([found.features, found.test_features])
        assert together.ravel().tolist() == joined[: windows * 5].tolist()
        assert found.labels.ravel().tolist() == joined[1 : found.labels.size + 1].tolist()
        (tmp_path / "a.txt").unlink(missing_ok=True)


def test_text_needs_no_path_and_may_be_cut(tmp_path):
    found = load(tmp_path, "next_token", name="text", max_bytes=10_000, window=50, test_share=0.0)
    assert found.features.shape == (199, 50) and found.test_labels is None and found.classes <= 256
    with pytest.raises(ConfigError, match="want two windows"):
        load(tmp_path, "next_token", name="text", path=written(tmp_path, "short", "t.txt"))


def test_diabetes_is_a_regression_and_standardized(tmp_path):
    found = load(tmp_path, "regression", name="diabetes")
    assert found.features.shape == (442, 10) and found.classes == 1
    np.testing.assert_allclose(found.features.std(0), 1)
    assert found.labels.std() == pytest.approx(1)
