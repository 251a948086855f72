"""The package as it is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

MISSING = "import sys; sys.modules['hiredis'] = None; import qorb_trio.redis"


@pytest.mark.real
def test_a_missing_extra_is_named() -> None:
    """Without hiredis, the import says how to install it."""
    done = subprocess.run(
        [sys.executable, "-c", MISSING], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert (
        "ImportError: qorb_trio.redis needs hiredis: pip install 'qorb-trio[redis]'" in done.stderr
    )
