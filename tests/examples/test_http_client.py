"""The HTTP client that finds its servers by DNS."""

from __future__ import annotations

import re
import shutil

import pytest

from ._programs import run


@pytest.mark.real
@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
async def test_no_request_fails_while_a_server_is_restarted() -> None:
    """All three servers answer, one of them is restarted, and every request is accounted for."""
    done = await run("http_client.py")
    assert (done.returncode, done.stderr) == (0, "")
    total = int(re.search(r"^(\d+) requests", done.stdout, re.MULTILINE)[1])  # type: ignore[index]
    answered = [int(count) for count in re.findall(r"(\d+) answered by web", done.stdout)]
    assert len(answered) == 3
    assert sum(answered) == total > 100
    assert "0 answered wrongly" in done.stdout
    assert "0 failed" in done.stdout
    assert "web2 quits" in done.stdout
    assert "web2 is back" in done.stdout
