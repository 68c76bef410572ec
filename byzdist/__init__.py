"""Byzantine-robust distributed training over real processes."""

__version__ = "0.1.0"
