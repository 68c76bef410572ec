"""Reading the lines of metrics.jsonl, which a run may still be writing."""

from pathlib import Path
from typing import Any

from byzdist.errors import ConfigError
from byzdist.host.files import parse_json, read_text
from byzdist.storage.folder import METRICS

_MAX_BYTES = 1 << 30


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """Return what metrics.jsonl says of each round; a last line that a kill has cut short is left out.

    Raises:
        ConfigError: if the file is missing, or is not what a run writes.
    """
    path = folder / METRICS
    try:
        texts = read_text(path, _MAX_BYTES).split("\n")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: this is not what a run writes: {error}.") from error
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            line = parse_json(text)
        except ValueError as error:
            if number == len(texts):
                break  # empty, or cut short
            raise ConfigError(f"{path}: line {number} is not a metrics line: {error}.") from error
        if not isinstance(line, dict) or type(line.get("round")) is not int:
            raise ConfigError(f"{path}: line {number} is not a metrics line: it has no round.")
        lines.append(line)
    return lines
