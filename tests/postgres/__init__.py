"""Tests of PostgreSQL. The servers of the benchmarks serve them too."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
