"""`Guard`: who may read, judged by headers."""

from __future__ import annotations

import base64

import pytest

from qorb_trio.qtop._guard import Guard, is_loopback

TOKEN = "s3cret-of-the-house"


def status(guard: Guard, **headers: str) -> int | None:
    """Return the status with which these headers are refused, `None` if they are not."""
    given = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    answer = guard.refuse_caller(given) or guard.refuse_stranger(given)
    return answer and answer.status


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost"])
def test_loopback(host: str) -> None:
    """An address that leads to this machine only needs no token."""
    assert is_loopback(host)
    Guard(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "fe80::1", "myhost", "local"])
def test_elsewhere_needs_a_token(host: str) -> None:
    """An address for other machines needs a token, and the error says why."""
    assert not is_loopback(host)
    with pytest.raises(ValueError, match=r"not a loopback address.* give a token"):
        Guard(host)
    Guard(host, TOKEN)


@pytest.mark.parametrize("token", ["", " ", "a b", "ä", "a\n"])
def test_a_token_that_cannot_be_sent(token: str) -> None:
    """A token that fits into no header is refused, and not repeated."""
    with pytest.raises(ValueError, match="token must be of visible ASCII"):
        Guard("127.0.0.1", token)


@pytest.mark.parametrize("token", ["x", "a" * 15])
def test_h_a_token_that_can_be_guessed(token: str) -> None:
    """A token has sixteen characters at least, and the error does not repeat it."""
    with pytest.raises(ValueError, match="token must have at least 16 characters") as caught:
        Guard("127.0.0.1", token)
    assert "aaa" not in str(caught.value)
    Guard("127.0.0.1", "a" * 16)


def test_h_a_request_with_many_tokens() -> None:
    """Of the tokens that one request offers, a few are looked at."""
    guard = Guard("127.0.0.1", TOKEN)
    right = protocol(TOKEN.encode())
    many = ", ".join([protocol(b"wrong").removeprefix("qtop, ")] * 1000)
    assert status(guard, host="localhost", sec_websocket_protocol=f"{right}, {many}") is None
    assert status(guard, host="localhost", sec_websocket_protocol=f"{many}, {right}") == 401


def test_the_token_is_not_shown() -> None:
    """The representation has no secret."""
    assert TOKEN not in repr(Guard("127.0.0.1", TOKEN))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1:42069", None),
        ("127.0.0.1", None),
        ("[::1]:42069", None),
        ("localhost:9", None),
        ("LOCALHOST:9", None),
        ("friend.test:42069", None),
        ("evil.test:42069", 403),
        ("127.0.0.1.evil.test", 403),
        ("10.0.0.1:42069", 403),
        ("", 403),
        ("[::1", 403),
    ],
)
def test_names_of_a_loopback_server(host: str, expected: int | None) -> None:
    """On loopback only its own names are known, and those that were allowed."""
    guard = Guard("127.0.0.1", allowed_hosts=["friend.test"])
    assert status(guard, host=host) == expected


def test_a_request_without_host_is_refused() -> None:
    """No `Host` is no proof of anything."""
    assert status(Guard("127.0.0.1")) == 403


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("10.0.0.1:42069", None),
        ("[fe80::1]:42069", None),
        ("pools.test", None),
        ("localhost", None),
        ("evil.test", 403),
    ],
)
def test_names_of_a_public_server(host: str, expected: int | None) -> None:
    """Beyond loopback any address will do, since an address cannot be made to lead here."""
    headers = {"host": host, "authorization": f"Bearer {TOKEN}"}
    assert status(Guard("Pools.test", TOKEN), **headers) == expected


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://127.0.0.1:42069", None),
        ("https://127.0.0.1:42069", None),
        ("HTTP://127.0.0.1:42069", None),
        ("http://127.0.0.1:8000", 403),
        ("http://localhost:42069", 403),
        ("http://evil.test", 403),
        ("file://127.0.0.1:42069", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_pages_from_elsewhere(origin: str, expected: int | None) -> None:
    """Only the page that this very address has served may connect."""
    assert status(Guard("127.0.0.1"), host="127.0.0.1:42069", origin=origin) == expected


def protocol(token: bytes) -> str:
    """Return the token as the page sends it."""
    return "qtop, bearer." + base64.urlsafe_b64encode(token).decode().rstrip("=")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 401),
        ({"authorization": f"Bearer {TOKEN}"}, None),
        ({"authorization": f"bearer {TOKEN} "}, None),
        ({"authorization": f"Bearer {TOKEN}x"}, 401),
        ({"authorization": f"Basic {TOKEN}"}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"sec_websocket_protocol": protocol(TOKEN.encode())}, None),
        ({"sec_websocket_protocol": protocol(b"wrong")}, 401),
        ({"sec_websocket_protocol": "qtop, bearer.A"}, 401),
        ({"sec_websocket_protocol": "qtop"}, 401),
    ],
)
def test_tokens(headers: dict[str, str], expected: int | None) -> None:
    """A server with a token refuses every request without it."""
    guard = Guard("127.0.0.1", TOKEN)
    assert status(guard, host="localhost", **headers) == expected
