"""`byzdist new`: a folder to begin with, which has a configuration and a module that run as they are."""

import argparse
import shlex
from pathlib import Path

from byzdist.errors import ConfigError

HELP = "write a configuration and a module of your own to begin with"
FILES = ("config.yaml", "mine.py", "quickstart.yaml")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the folder."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="a folder that does not hold them yet")


def run(arguments: argparse.Namespace) -> int:
    """Write the files, and say what to do next."""
    written = write(arguments.folder)
    print(f"wrote {', '.join(map(str, written))}")
    print(f"next: cd {shlex.quote(str(arguments.folder))} && byzdist run config.yaml")
    return 0


def write(folder: Path) -> list[Path]:
    """Write the files to begin with into a folder, which is made if it does not exist; return their paths.

    Raises:
        ConfigError: if one of them is there already, or the folder cannot be written.
    """
    from importlib.resources import files

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
