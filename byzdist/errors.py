"""The errors that reach a user."""


class ConfigError(ValueError):
    """A mistake in the configuration or on the command line; the message names the key, the value and the remedy."""


class RunError(RuntimeError):
    """A run that cannot go on; the message says why."""
