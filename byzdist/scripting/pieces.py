"""Every registered piece as a function of its parameters: ``byzdist.byz_vr_marina_pp(step_size=0.1, cohort=4)`` is a `Spec`."""

import inspect
from typing import Any

from byzdist.config.settings import KINDS
from byzdist.registry import Spec


class Piece:
    """A registered piece; calling it with parameters gives its `Spec` for a configuration.

    Attributes:
        kinds: "method", "rule", ...; there is more than one if pieces of different kinds have the same name.
    """

    def __init__(self, name: str, kinds: list[str]) -> None:
        self.__name__ = self.__qualname__ = name
        self.kinds = kinds
        first = KINDS[kinds[0]]
        self.__doc__ = first.registry.document(name)
        parameters = list(first.registry.parameters(name, first.key).values())
        self.__signature__ = inspect.Signature(parameters, return_annotation=Spec)

    def __call__(self, **parameters: Any) -> Spec:
        """Return the piece's spec with these parameters; they are checked when it is used."""
        return Spec(self.__name__, parameters)

    def __repr__(self) -> str:
        return f"<byzdist {' or '.join(KINDS[kind].title for kind in self.kinds)}: {self.__name__}>"


def piece(name: str) -> Piece:
    """Return the piece with a registered name, of any kind.

    Raises:
        AttributeError: if there is none.
    """
    kinds = [word for word, kind in KINDS.items() if name in kind.registry]
    if not kinds:
        raise AttributeError(f"module 'byzdist' has no attribute {name!r}")
    return Piece(KINDS[kinds[0]].registry.canonical(name), kinds)


def names() -> list[str]:
    """Return the names of all registered pieces."""
    return sorted({name for kind in KINDS.values() for name in kind.registry})
