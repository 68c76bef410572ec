"""CIFAR-10 from both of its versions, and what is refused."""

import struct
import tarfile

import numpy as np
import pytest

from byzdist.errors import ConfigError
from byzdist.problem import data
from byzdist.problem.data import DATASETS
from byzdist.problem.data.plain_pickle import PlainPickleError, plain_values

PARTS = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
GENERATOR = np.random.default_rng(0)
SETS = {
    part: (GENERATOR.integers(256, size=(4, 3072), dtype=np.uint8), [i, 9, 3, 5 - i]) for i, part in enumerate(PARTS)
}
MEANS, DEVIATIONS = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2023, 0.1994, 0.2010])


def binary(pixels, labels):
    return b"".join(bytes([label]) + row.tobytes() for row, label in zip(pixels, labels, strict=True))


def text(value):
    return b"U" + bytes([len(value)]) + value


def python(pixels, labels, kind=b"u1"):
    """Write what Python 2 and numpy wrote into the python version's files, opcode by opcode (pickletools.dis shows them)."""
    memo = iter(range(1, 100))

    def put():
        return b"q" + bytes([next(memo)])

    array = b"cnumpy.core.multiarray\n_reconstruct\n" + put() + b"cnumpy\nndarray\n" + put() + b"K\0\x85" + put()
    array += text(b"b") + put() + b"\x87" + put() + b"R" + put()
    array += b"(K\x01M" + struct.pack("<HBH", len(pixels), ord("M"), 3072) + b"\x86" + put()
    array += b"cnumpy\ndtype\n" + put() + text(kind) + put() + b"K\0K\x01\x87" + put() + b"R" + put()
    array += b"(K\x03" + text(b"|") + put() + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0t" + put() + b"b\x89"
    array += b"T" + struct.pack("<I", pixels.size) + pixels.tobytes() + put() + b"t" + put() + b"b"
    numbers = b"".join(b"K" + bytes([label]) for label in labels)
    content = b"\x80\x02}" + put() + b"(" + text(b"batch_label") + put() + text(b"training batch 1 of 5") + put()
    content += text(b"labels") + put() + b"]" + put() + b"(" + numbers + b"e" + text(b"data") + put() + array
    return content + text(b"filenames") + put() + b"]" + put() + b"(" + text(b"a.png") + put() + b"eu."


def write(folder, make, suffix=""):
    folder.mkdir(parents=True)
    for part, (pixels, labels) in SETS.items():
        (folder / f"{part}{suffix}").write_bytes(make(pixels, labels))
    return folder


def packed(folder, target):
    with tarfile.open(target, "w:gz") as archive:
        archive.add(folder, "cifar-10-batches")
    return target


def load(path, tmp_path):
    return data.load({"name": "cifar10", "path": str(path)}, tmp_path / "cache", "float32")


@pytest.mark.parametrize(("make", "suffix"), [(binary, ".bin"), (python, "")])
def test_both_versions_in_a_folder_or_an_archive(tmp_path, make, suffix):
    folder = write(tmp_path / "cifar-10-batches-py", make, suffix)
    for path in (folder, tmp_path, packed(folder, tmp_path / "cifar.tar.gz")):
        found = load(path, tmp_path)
        assert found.features.shape == (20, 3, 32, 32) and found.test_features.shape == (4, 3, 32, 32)
        assert found.labels.tolist() == [label for part in PARTS[:5] for label in SETS[part][1]]
        image = SETS["data_batch_2"][0][3].reshape(3, 32, 32).transpose(1, 2, 0) / 255  # rows of red, then green, blue
        expected = ((image - MEANS) / DEVIATIONS).transpose(2, 0, 1)
        np.testing.assert_allclose(found.features[7], expected, atol=1e-6)
        assert found.test_labels.tolist() == SETS["test_batch"][1] and found.classes == 10


@pytest.mark.parametrize(
    ("make", "suffix", "damaged", "message"),
    [
        (binary, ".bin", lambda pixels, labels: binary(pixels, labels)[:-1], "not a multiple of 3073"),
        (binary, ".bin", lambda pixels, labels: binary(pixels, [0, 1, 2, 10]), "labels from 0 to 10"),
        (python, "", lambda pixels, labels: python(pixels, [0, 1, 2, 10]), "labels from 0 to 10"),
        (python, "", lambda pixels, labels: python(pixels, labels[:3]), "as many labels"),
        (python, "", lambda pixels, labels: python(pixels, labels, b"i1"), "as many labels"),
        (python, "", lambda pixels, labels: python(pixels, labels)[:-9], "ends too early"),
        (python, "", lambda pixels, labels: b"\x80\x02cos\nsystem\nU\x04true\x85R.", "as many labels"),
    ],
)
def test_damaged_files_are_refused(tmp_path, make, suffix, damaged, message):
    folder = write(tmp_path / "set", make, suffix)
    (folder / f"data_batch_3{suffix}").write_bytes(damaged(*SETS["data_batch_3"]))
    with pytest.raises(ConfigError, match=rf"data\.path: data_batch_3.*{message}"):
        load(folder, tmp_path)


def test_missing_files_are_refused(tmp_path):
    folder = write(tmp_path / "set", binary, ".bin")
    (folder / "data_batch_4.bin").unlink()
    archive = packed(folder, tmp_path / "cifar.tar.gz")
    with pytest.raises(ConfigError, match=r"data\.path: .*has not all of data_batch_1"):
        load(archive, tmp_path)
    archive.write_bytes(b"no archive")
    for path, message in (
        (folder, "the folder has no data_batch_1"),
        (archive, "no archive of CIFAR-10"),
        (tmp_path / "x", "there is no such file"),
    ):
        with pytest.raises(ConfigError, match=rf"data\.path: .*{message}"):
            DATASETS.check({"name": "cifar10", "path": str(path)}, "data")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02]\x93.", "opcode"),  # STACK_GLOBAL
        (b"\x80\x04].", "protocol 4"),
        (b"\x80\x02Nh\x05.", "damaged"),
        (b"\x80\x02NK\x01a.", "a NoneType where a list belongs"),
        (b"\x80\x02NN.", "damaged"),
        (b"\x80\x02T\xff\xff\xff\xffx.", "ends too early"),
        (b"", "ends too early"),
    ],
)
def test_other_pickles_are_refused(content, message):
    with pytest.raises(PlainPickleError, match=message):
        plain_values(content)


def test_numbers_and_strings():
    content = b"\x80\x02(K\xffM\x00\x01J\xfe\xff\xff\xff\x8a\x02\xff\xffX\x02\0\0\0hi\x88)t."
    assert plain_values(content) == (255, 256, -2, -1, b"hi", True, ())
    first, second = plain_values(b"\x80\x02(]r\0\x01\0\0j\0\x01\0\0K\x07at.")
    assert first is second and first == [7]
    assert plain_values(b"\x80\x02}K\x01K\x02s.") == {1: 2}
