"""The one way in which tests make operations fail, record calls, or register pieces for a while.

A real situation (a file in the way, another owner, a limit) is better wherever it can be had.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from byzdist.registry import Registry


@contextmanager
def failing(
    owner: Any, operation: str, error: int | Exception, when: Callable[..., bool] = lambda *_, **__: True
) -> Iterator[None]:
    """Have an operation of a module, class or object raise an error (a number: that of the system).

    Args:
        owner: what has the operation.
        operation: its name.
        error: what it raises.
        when: which calls fail, by their arguments; the others are made.
    """
    true = getattr(owner, operation)

    def call(*arguments: Any, **keywords: Any) -> Any:
        if when(*arguments, **keywords):
            raise OSError(error, os.strerror(error)) if isinstance(error, int) else error
        return true(*arguments, **keywords)

    with patch.object(owner, operation, call):
        yield


@contextmanager
def watched(owner: Any, operation: str) -> Iterator[list[tuple[Any, ...]]]:
    """Give the list of the arguments of an operation's calls, which are made as ever."""
    true, calls = getattr(owner, operation), list[tuple[Any, ...]]()

    def call(*arguments: Any, **keywords: Any) -> Any:
        calls.append(arguments)
        return true(*arguments, **keywords)

    with patch.object(owner, operation, call):
        yield calls


@contextmanager
def registered(registry: Registry[Any], **entries: Any) -> Iterator[None]:
    """Have pieces in a registry under these names."""
    with patch.dict(registry._entries, entries):
        yield
