"""The errors that reach a user."""


class ConfigError(ValueError):
    """A mistake in the configuration or on the command line; the message names the key, the value and the remedy."""


class UnknownKey(ConfigError):
    """A key that nothing reads.

    Attributes:
        where: its dotted path.
        known: the keys that there are in its place.
    """

    def __init__(self, where: str, known: list[str], hint: str) -> None:
        super().__init__(f"{where}: unknown key.{hint}")
        self.where, self.known = where, known


class RunError(RuntimeError):
    """A run that cannot go on; the message says why."""
