"""Text as bytes, cut into windows, for language models."""

import sysconfig
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from pydantic import AfterValidator

from byzdist.errors import ConfigError
from byzdist.problem.data.base import DATASETS, READ_ERRORS, RawData, open_binary, refuse
from byzdist.problem.data.tabular import Share

_TEXTS = ("*.txt", "*.md", "*.rst", "*.py")


def _is_there(path: str) -> str:
    if not Path(path).exists():
        raise refuse("there is no such file or folder")
    return path


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(file for pattern in _TEXTS for file in path.glob(pattern) if file.is_file())


@DATASETS.register("text")
def text(
    *,
    path: Annotated[str, AfterValidator(_is_there)] | None = None,
    window: Annotated[int, Ge(2)] = 128,
    test_share: Share = 0.1,
    max_bytes: Annotated[int, Ge(1)] = 2_000_000,
) -> RawData:
    """The bytes of a file, or of the texts in a folder, cut into windows; the last ``test_share`` of them are the test set.

    Without a path the text is the source of Python's standard library, which every machine has. A sample is ``window`` bytes, and its
    targets are the bytes that follow each of them.
    """
    source = Path(path) if path is not None else Path(sysconfig.get_path("stdlib"))
    read, room = [], max_bytes
    for file in _files(source):
        try:
            with open_binary(file) as opened:
                read.append(opened.read(room))
        except READ_ERRORS as error:
            raise ConfigError(f"data.path: {str(file)!r} cannot be read: {error}.") from error
        room -= len(read[-1])
        if room <= 0:
            break
    content: NDArray[np.int64] = np.frombuffer(b"".join(read), np.uint8).astype(np.int64)
    windows = (len(content) - 1) // window
    if windows < 2:
        raise ConfigError(
            f"data.path: {str(source)!r} holds {len(content)} bytes of text; want two windows of {window} and more."
        )
    inputs = content[: windows * window].reshape(windows, window)
    targets = content[1 : windows * window + 1].reshape(windows, window)
    train = windows - max(1, round(test_share * windows)) if test_share else windows
    if train == windows:
        return RawData(inputs, targets)
    return RawData(inputs[:train], targets[:train], inputs[train:], targets[train:])


text.task = "next_token"  # type: ignore[attr-defined]
