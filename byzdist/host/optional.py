"""Optional libraries, which only some users have installed."""

import importlib
from importlib.util import find_spec
from typing import Any

from byzdist.errors import ConfigError


def optional(module: str, what: str, install: str) -> Any:
    """Import a library and return it.

    Args:
        module: its name.
        what: what needs it, with the key or the function, for the error.
        install: the argument for `pip install`.

    Raises:
        ConfigError: if it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{what} {module} ({error}): pip install {install!r}.") from None


def is_installed(module: str) -> bool:
    """Return whether a library is installed, without importing it."""
    return find_spec(module) is not None
