"""Folders of runs, as a kill leaves them."""

from pathlib import Path

from byzdist.storage.checkpoint import rounds


def drop_after(folder: Path, round_: int) -> int:
    """Take back what was saved after a round, as if the run had been killed a little later; return the last one left."""
    saved_rounds = rounds(folder / "checkpoint")
    for later, path in saved_rounds.items():
        if later > round_:
            path.unlink()
    return next(left for left in saved_rounds if left <= round_)
