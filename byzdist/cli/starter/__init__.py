"""`byzdist new`: a folder to begin with, a configuration and a module of one's own that run as they are."""

from importlib.resources import files
from pathlib import Path

from byzdist.errors import ConfigError

FILES = ("config.yaml", "mine.py", "quickstart.yaml")


def write(folder: Path) -> list[Path]:
    """Write the starter's files into a folder, which is made where it is not there; return their paths.

    Raises:
        ConfigError: if one of them is there already, or the folder cannot be written.
    """
    paths = [folder / name for name in FILES]
    there = [str(path) for path in paths if path.exists() or path.is_symlink()]
    if there:
        raise ConfigError(f"{', '.join(there)}: there already, and nothing is overwritten. Name another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            with path.open("x", encoding="utf-8") as file:
                file.write((files(__package__) / path.name).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{folder}: cannot write there: {error.strerror}. Name another folder.") from None
    return paths
