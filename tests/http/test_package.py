"""The package as it is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest


def import_without(*missing: str) -> str:
    """Import the package where some others are missing; return what is said then."""
    code = f"import sys; sys.modules.update(dict.fromkeys({missing!r})); import qorb_trio.http"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stderr


@pytest.mark.real
def test_a_missing_extra_is_named() -> None:
    """Without h11, or any httpx, the import says how to install it."""
    install = "pip install 'qorb-trio[http]'"
    assert f"needs h11: {install}" in import_without("h11")
    assert f"needs httpx, or httpx2: {install}" in import_without("httpx", "httpx2")


@pytest.mark.real
@pytest.mark.parametrize("missing", ["httpx", "httpx2"])
def test_one_of_both_suffices(missing: str) -> None:
    """The package works with either httpx or httpx2."""
    assert import_without(missing) == ""
