"""The examples are programs, not a package: their tests find them as Python itself would."""

from __future__ import annotations

import sys

from ._programs import EXAMPLES

sys.path.append(str(EXAMPLES))
