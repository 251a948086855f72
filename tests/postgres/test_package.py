"""The package as it is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

MISSING = "import sys; sys.modules['psycopg'] = None; import qorb_trio.postgres"


@pytest.mark.real
def test_a_missing_extra_is_named() -> None:
    """Without psycopg, the import says how to install it."""
    done = subprocess.run(
        [sys.executable, "-c", MISSING], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "needs psycopg: pip install 'qorb-trio[postgres]'" in done.stderr
