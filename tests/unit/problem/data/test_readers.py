"""LIBSVM and IDX files as people have them: they are read, or the error names the file, the line and the cause."""

import bz2
import gzip
import itertools
import logging
import lzma
import os
import time
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byzdist.errors import ConfigError
from byzdist.problem import data
from byzdist.problem.data import libsvm as module
from tests.unit.problem.data.test_data import DENSE, LINES, write_idx

PACKED: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}
HEADER = "samples features\n"


def libsvm(path, tmp_path, **more):
    return data.load({"name": "libsvm", "path": str(path), **more}, tmp_path / "cache")


def assert_lines(path, tmp_path):
    found = libsvm(path, tmp_path, features=4)
    np.testing.assert_array_equal(found.features, DENSE)
    np.testing.assert_array_equal(found.labels, [1, 0, 1, 0])


FORMS = {
    "as it is": LINES,
    "query ids": "+1 qid:1 1:0.5 3:2\n-1 qid:1 2:1e-1\n+1 qid:2 # nothing\n-1 qid:2 1:-3 2:4 3:5\n",
    "a header": HEADER + LINES,
    "a header of three numbers": "4 3 2\n" + LINES,
    "a header of names": "label,f1,f2,f3\n" + LINES,
    "comments and empty lines first": "# made by hand\n\n   \n" + LINES,
    "a header after comments": "# made by hand\n\nlabel features\n" + LINES,
    "no line feed at the end": LINES.rstrip("\n"),
    "Windows": LINES.replace("\n", "\r\n"),
    "old Macs": LINES.replace("\n", "\r"),
    "tabs and blanks": LINES.replace(" ", "\t  "),
    "blanks at the ends": LINES.replace("\n", "  \n"),
    "indices in any order": "+1 3:2 1:0.5\n-1 2:1e-1\n+1\n-1 3:5 1:-3 2:4\n",
    "labels as fractions": LINES.replace("+1", "1.0").replace("-1 ", "-1.0 "),
    "exponents": LINES.replace("+1", "1e0"),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_libsvm_that_can_be_read_are_read(tmp_path, form):
    (tmp_path / "file").write_bytes(FORMS[form].encode())
    assert_lines(tmp_path / "file", tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("form", ["as it is", "a header", "Windows"])
def test_encodings_of_libsvm(tmp_path, encoding, form):
    (tmp_path / "file").write_bytes(FORMS[form].encode(encoding))
    assert_lines(tmp_path / "file", tmp_path)


@pytest.mark.parametrize("how", PACKED)
def test_packed_libsvm(tmp_path, how):
    (tmp_path / "file").write_bytes(PACKED[how](LINES.encode()))
    assert_lines(tmp_path / "file", tmp_path)
    (tmp_path / "file").write_bytes(PACKED[how]((LINES * 1000).encode("utf-16")))  # longer than what is looked at first
    assert len(libsvm(tmp_path / "file", tmp_path).labels) == 4_000


ODD = {
    "several labels": ("1,3 1:1\n2 1:1\n", "line 1: it has several labels, '1,3'; a sample is of one class"),
    "several labels further on": ("1 1:1\n2 1:1\n1,2 1:3\n", "line 3: it has several labels, '1,2'"),
    "no label": (" 1:1\n1 1:1\n2 1:1\n", "line 1: it begins with '1:1', and has no label"),
    "no label further on": ("1 1:1\n2 1:1\n3:1 4:1", "line 3: it begins with '3:1', and has no label"),
    "a word for a label": ("cat 1:1\ndog 1:1\n", "line 1: its label is 'cat', which is not a number"),
    "a label that is NaN": ("1 1:1\n2 1:1\nnan 1:1\n", "line 3: its label is 'nan'"),
    "an infinite label": ("1 1:1\n2 1:1\ninf 1:1\n", "line 3: its label is 'inf'"),
    "a word for a value": ("1 1:1\n\n# here\n2 1:x\n", "line 4: '1:x' is not an index:value pair"),
    "a negative index": ("1 1:1\n2 -4:1\n", "line 2: '-4:1' is not an index:value pair"),
    "a broken index": ("1 1:1\n2 1.5:1\n", "line 2: '1.5:1' is no"),
    "a value without an index": ("1 1:1\n2 7\n", "line 2: '7' is no"),
    "an index twice": ("1 1:1\n2 3:1 3:2\n", "line 2: it has the index 3 twice"),
    "a table": ("a,b,c\n1,2,3\n4,5,6\n", "line 1"),
    "a table of numbers": ("1,2.5,3\n4,5,6\n", "line 1: it has several labels"),
    "JSON": ('{"label": 1}\n{"label": 2}\n', "line 1"),
    "a picture": ("\x89PNG\r\n\x1a\n\0\0", "not a LIBSVM file"),
    "nothing": ("", "not a LIBSVM file"),
    "comments only": ("# nothing\n\n", "not a LIBSVM file"),
    "an index of 40 bits": ("1 1:1\n2 1099511627776:1\n", "index 1099511627776.*kept dense.*hash them"),
    "an index of 63 bits": ("1 1:1\n2 9223372036854775807:1\n", "line 2 has the index 9223372036854775807.*kept dense"),
    "an index of 100 bits": (
        "1 1:1\n2 1267650600228229401496703205376:1\n",
        "line 2 has the index 1267650600228229401496703205376",
    ),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_what_cannot_be_read_is_named_by_file_line_and_cause(tmp_path, name, encoding):
    text, complaint = ODD[name]
    (tmp_path / "the file").write_bytes(text.encode(encoding))
    with pytest.raises(ConfigError, match=rf"data\.path: .*{complaint}") as refusal:
        libsvm(tmp_path / "the file", tmp_path)
    assert "the file" in str(refusal.value)


@pytest.mark.parametrize("how", ["gzip", "bz2", "xz"])
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_damaged_packed_files_are_named(tmp_path, how, damage):
    generator = np.random.default_rng(0)
    packed = PACKED[how]("".join(f"{i % 2} 1:{x}\n" for i, x in enumerate(generator.random(5_000))).encode())
    middle = len(packed) // 2
    packed = packed[:middle] if damage == "cut" else packed[:middle] + bytes(64) + packed[middle + 64 :]
    (tmp_path / "the file").write_bytes(packed)
    with pytest.raises(ConfigError, match=r"data\.path: .*cannot be read"):
        libsvm(tmp_path / "the file", tmp_path)


@pytest.mark.parametrize(
    "content, packer",
    [(b"PK\x03\x04....", "zip"), (b"7z\xbc\xaf\x27\x1c", "7z"), (b"\x28\xb5\x2f\xfd..", "zstd"), (b"Rar!\x1a", "rar")],
)
def test_archives_are_to_be_unpacked(tmp_path, content, packer):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ConfigError, match=f"packed with {packer}; unpack it first"):
        libsvm(tmp_path / "file", tmp_path)
    if packer == "zip":
        with zipfile.ZipFile(tmp_path / "file", "w") as archive:
            archive.writestr("a9a", LINES)
        with pytest.raises(ConfigError, match="unpack it first"):
            libsvm(tmp_path / "file", tmp_path)


@pytest.mark.parametrize("kind", ["FIFO", "device"])
def test_data_are_read_from_files_only(tmp_path, kind):
    os.mkfifo(tmp_path / "FIFO")
    started = time.monotonic()
    with pytest.raises(ConfigError, match=kind):
        libsvm(tmp_path / "FIFO" if kind == "FIFO" else "/dev/zero", tmp_path)
    assert time.monotonic() - started < 60


def test_a_header_is_said(tmp_path, caplog):
    (tmp_path / "file").write_text(FORMS["a header of names"])
    libsvm(tmp_path / "file", tmp_path)
    (message,) = caplog.messages
    assert "first line, 'label,f1,f2,f3', is taken for a header" in message


@pytest.mark.parametrize(
    "labels, words",
    [
        ([-1, 1], None),
        ([0, 1], None),
        ([1, 2], None),
        ([3.5, 7], None),
        ([1, 2, 3, 4], None),
        ([0, 1, 2], None),
        ([-1, 0, 1], None),
        ([7, -3, 2.5], "3 labels from -3 to 7 are taken for classes 0 to 2"),
        (
            list(range(1922, 2012)),
            "90 labels from 1922 to 2011 are taken for classes 0 to 89; byzdist trains classifiers",
        ),
        ([0, 1, 2, 4], "taken for classes 0 to 3"),
    ],
)
def test_labels_that_rather_are_numbers_to_predict_are_said(tmp_path, caplog, labels, words):
    (tmp_path / "file").write_text("".join(f"{label} 1:{i}\n" for i, label in enumerate(labels * 2)))
    with caplog.at_level(logging.WARNING, logger="byzdist"):
        libsvm(tmp_path / "file", tmp_path)
    assert len(caplog.messages) == (words is not None) and (words is None or words in caplog.text)


def test_many_fractions_are_no_classes(tmp_path):
    (tmp_path / "file").write_text("".join(f"{x / 7} 1:1\n" for x in range(50)))
    with pytest.raises(ConfigError, match="50 labels from 0 to 7, such as .*np.digitize"):
        libsvm(tmp_path / "file", tmp_path)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-3, 3), st.dictionaries(st.integers(1, 30), st.floats(-1e6, 1e6))), min_size=1, max_size=8
    )
)
def test_line_by_line_reads_what_scikit_learn_reads(samples):
    lines = [" ".join([str(y), *(f"{i}:{v!r}" for i, v in sorted(x.items()))]) for y, x in samples]
    content = "\n".join(lines).encode()
    from io import BytesIO

    from sklearn.datasets import load_svmlight_file

    matrix, labels = load_svmlight_file(BytesIO(content), zero_based=True)
    mine, own_labels = module._read_line_by_line("data.path", "file", content)
    width = max(matrix.shape[1], mine.shape[1])
    matrix.resize(len(samples), width), mine.resize(len(samples), width)
    assert np.array_equal(matrix.toarray(), mine.toarray()) and np.array_equal(labels, own_labels)


# IDX


def write_set(folder, name, suffix="", seed=0, labels=None):
    """Write four files; ``name(part, kind, axes)`` names each."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    parts = {}
    for part, count in (("train", 7), ("t10k", 3)):
        parts[part, "images"] = generator.integers(256, size=(count, 8, 8))
        parts[part, "labels"] = np.arange(count) % 3 if labels is None else labels[:count]
    for (part, kind), array in parts.items():
        path = folder / name(part, kind, 3 if kind == "images" else 1)
        path.parent.mkdir(exist_ok=True)
        write_idx(path, array)
        if suffix:
            path.with_name(path.name + suffix).write_bytes(
                PACKED[{".gz": "gzip", ".bz2": "bz2", ".xz": "xz"}[suffix]](path.read_bytes())
            )
            path.unlink()
    return parts


def usual(part, kind, axes):
    return f"{part}-{kind}-idx{axes}-ubyte"


def dotted(part, kind, axes):
    return f"{part}-{kind}.idx{axes}-ubyte"


def capital(part, kind, axes):
    return f"{part}-{kind}.IDX{axes}-UBYTE"


def in_folders(part, kind, axes):
    return f"{dotted(part, kind, axes)}/{usual(part, kind, axes)}"


def in_folders_of_their_name(part, kind, axes):
    return f"{usual(part, kind, axes)}/{usual(part, kind, axes)}"


def emnist(subset):
    return lambda part, kind, axes: f"emnist-{subset}-{'test' if part == 't10k' else part}-{kind}-idx{axes}-ubyte"


def load_mnist(path, tmp_path, **more):
    return data.load({"name": "mnist", "path": str(path), **more}, tmp_path / "cache")


def assert_set(found, parts):
    for images, part in ((found.features, "train"), (found.test_features, "t10k")):
        np.testing.assert_allclose(images, (parts[part, "images"] / 255 - 0.1307) / 0.3081, atol=1e-12)
    assert np.array_equal(found.labels, parts["train", "labels"]) and np.array_equal(
        found.test_labels, parts["t10k", "labels"]
    )


LAYOUTS = {
    "the folder itself": "",
    "raw": "raw",
    "torchvision's": "MNIST/raw",
    "torchvision's Fashion-MNIST": "FashionMNIST/raw",
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name, suffix", [(usual, ""), (usual, ".gz"), (dotted, ""), (dotted, ".xz"), (usual, ".bz2")])
def test_idx_files_are_found_where_others_leave_them(tmp_path, layout, name, suffix):
    parts = write_set(tmp_path / "root" / layout, name, suffix)
    assert_set(load_mnist(tmp_path / "root", tmp_path), parts)
    if layout.startswith("MNIST"):
        assert_set(load_mnist(tmp_path / "root" / "MNIST", tmp_path), parts)


@pytest.mark.parametrize("name", [capital, in_folders, in_folders_of_their_name])
def test_idx_files_are_found_under_the_names_that_unpackers_leave(tmp_path, name):
    parts = write_set(tmp_path / "root", name)
    assert_set(load_mnist(tmp_path / "root", tmp_path), parts)


def test_packed_and_plain_side_by_side_are_one_set(tmp_path):
    parts = write_set(tmp_path / "root", usual, ".gz")
    write_set(tmp_path / "root", usual)
    assert_set(load_mnist(tmp_path / "root", tmp_path), parts)


@pytest.mark.parametrize("layout", ["", "EMNIST/raw"])
def test_a_set_of_emnist_is_chosen(tmp_path, layout):
    parts = {
        name: write_set(tmp_path / "e" / layout, emnist(name), seed=i) for i, name in enumerate(("balanced", "digits"))
    }
    for name, expected in parts.items():
        assert_set(load_mnist(tmp_path / "e", tmp_path, subset=name), expected)
    with pytest.raises(
        ConfigError,
        match=r"data\.path: the folder has the sets balanced, digits of EMNIST; choose one with data.subset",
    ):
        load_mnist(tmp_path / "e", tmp_path)
    with pytest.raises(ConfigError, match="no set 'letters'"):
        load_mnist(tmp_path / "e", tmp_path, subset="letters")


def test_the_only_set_of_emnist_needs_no_name_and_letters_begin_at_0(tmp_path):
    write_set(tmp_path / "e", emnist("letters"), labels=np.array([1, 2, 3, 1, 2, 3, 1]))
    found = load_mnist(tmp_path / "e", tmp_path)
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2, 0] and found.classes == 3


def test_two_sets_in_one_folder_are_not_mixed_up(tmp_path):
    for folder in ("MNIST", "KMNIST"):
        write_set(tmp_path / "root" / folder / "raw", usual)
    with pytest.raises(ConfigError, match="several sets, in KMNIST/raw, MNIST/raw"):
        load_mnist(tmp_path / "root", tmp_path)
    assert load_mnist(tmp_path / "root" / "KMNIST", tmp_path).classes == 3


@pytest.mark.parametrize("missing", list(itertools.product(("train", "t10k"), ("images", "labels"))))
def test_the_file_that_is_missing_is_named(tmp_path, missing):
    part, kind = missing
    write_set(tmp_path / "root" / "MNIST" / "raw", usual)
    (tmp_path / "root" / "MNIST" / "raw" / usual(part, kind, 3 if kind == "images" else 1)).unlink()
    with pytest.raises(ConfigError, match=rf"no {part}-{kind}-idx"):
        load_mnist(tmp_path / "root", tmp_path)


def test_a_changed_file_deep_in_the_folder_is_prepared_anew(tmp_path):
    write_set(tmp_path / "root" / "MNIST" / "raw", usual)
    first = load_mnist(tmp_path / "root", tmp_path)
    parts = write_set(tmp_path / "root" / "MNIST" / "raw", usual, seed=1)
    second = load_mnist(tmp_path / "root", tmp_path)
    assert first.key != second.key
    assert_set(second, parts)
