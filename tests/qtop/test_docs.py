"""docs/observability.md: the numbers about qtop."""

from __future__ import annotations

from pathlib import Path

import pytest

from qorb_trio.qtop import _guard, _http, _message, _server, _websocket

from .test_hostile_clients import LONGEST_GAP

PAGE = Path(__file__).parents[2] / "docs" / "observability.md"


@pytest.mark.parametrize(
    "said",
    [
        f"wait for at most {LONGEST_GAP * 1000:.0f} ms",
        f"At most {_server.MAX_CLIENTS} clients watch",
        f"may send {_server.FRAME_RATE:.0f} frames per second, and {_server.FRAME_BURST:.0f} at",
        f"at most {_server._LONGEST:,} characters and {_websocket.MAX_FRAGMENTS:,} fragments",
        f"at most {_http.MAX_HEAD // 1024} KiB in {_http.MAX_LINES} lines",
        f"more than {_server.MAX_STRANGERS} of them wait",
        f"at most {_message.MAX_LENGTH:,} characters of a message and {_message.MAX_SETS:,} back",
        f"at least {_guard.MIN_TOKEN} characters",
        f"between {_server._MIN_INTERVAL:g} and {_server._MAX_INTERVAL:,.0f}",
    ],
)
def test_numbers(said: str) -> None:
    """Each limit on the page is the one in the code."""
    assert said in " ".join(PAGE.read_text(encoding="utf-8").split())
