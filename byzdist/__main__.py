"""``python -m byzdist``: the same as the console script, and what torchrun starts on every rank."""

import sys

from byzdist.cli import main

sys.exit(main())
