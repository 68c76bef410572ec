"""How many Byzantine participants the user of an adapter declares."""

from numbers import Integral

from byzdist.errors import ConfigError


def check_declared(f: object, adapter: str, participants: str = "clients") -> None:
    """Refuse an f that is not a whole number of at least 0.

    Raises:
        ConfigError: naming the adapter's argument, such as ``flower.f``.
    """
    if isinstance(f, bool) or not isinstance(f, Integral) or f < 0:
        raise ConfigError(f"{adapter}.f: {f!r}; a whole number of {participants} is needed.")
