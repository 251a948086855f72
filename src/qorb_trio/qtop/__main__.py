"""``python -m qorb_trio.qtop``: the command ``qtop``."""

import sys

from .._qtop_command import main

sys.exit(main())
