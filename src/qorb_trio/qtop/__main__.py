"""``python -m qorb_trio.qtop``: the command ``qtop``."""

import sys

from ._command import main

sys.exit(main())
