"""``python -m byzdist``: the same as the console script, and what torchrun starts on every rank."""

import os
import sys

if sys.path and sys.path[0] == os.getcwd():  # what lies where the user stands must not hide a library
    sys.path.append(sys.path.pop(0))

from byzdist.cli import main  # noqa: E402

sys.exit(main())
