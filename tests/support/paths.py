"""Where the tests find the data files that do not come with the package."""

import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]


def data_file(name: str) -> str:
    """Return the path of a data file or folder; skip the test where it is not there."""
    path = Path(os.environ.get("BYZDIST_DATA", _ROOT.parent / "shared" / "data")) / name
    if not path.exists():
        pytest.skip(f"needs {name}: set BYZDIST_DATA to the folder that holds it")
    return str(path)
