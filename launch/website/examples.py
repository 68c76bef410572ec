"""Shows the examples of docstrings as code: byzdist calls that section "Example", and griffe looks for "Examples"."""

from typing import Any

import griffe


class Examples(griffe.Extension):
    """Renames the section before docstrings are read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section of an object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
