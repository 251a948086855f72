"""`Guard`: decides which clients may read. No I/O here.

A web page from elsewhere runs in a browser on a user's machine, and so could connect to a
server on the loopback interface of that machine. Two headers reveal it, and no page can forge
them. ``Origin`` names the server that the page came from. ``Host`` has the name that the page
connected to, which is the page's own if its DNS record leads here ("DNS rebinding").
"""

from __future__ import annotations

import base64
import hmac
import ipaddress
import itertools
import re
from collections.abc import Collection, Iterable
from typing import Final, final
from urllib.parse import urlsplit

import attrs

from ._http import Answer, refuse

#: A browser can give a WebSocket no header but this one, so it brings the token as one of
#: its subprotocols, in base64: ``qtop, bearer.dG9rZW4``.
BEARER_PROTOCOL: Final = "bearer."

#: The minimum length of a token. Sixteen random hexadecimal digits are 64 bits, too many to guess.
MIN_TOKEN: Final = 16
#: The maximum number of tokens that one request may offer. A browser sends one.
_MAX_OFFERED: Final = 4

Headers = Iterable[tuple[bytes, bytes]]


def is_loopback(host: str) -> bool:
    """Return True if the name or address of `host` is one that leads to this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_token(token: str) -> None:
    """Raise `ValueError` for an unusable or guessable token. The error does not repeat it."""
    if not re.fullmatch(r"[!-~]+", token):
        raise ValueError("token must be of visible ASCII characters, without a space")
    if len(token) < MIN_TOKEN:
        raise ValueError(
            f"token must have at least {MIN_TOKEN} characters: make one with"
            " python -c 'import secrets; print(secrets.token_hex())'"
        )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _name_of(authority: str) -> str:
    """Return the host of ``host:port``, or an empty string."""
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""


@final
@attrs.frozen
class Guard:
    """Refuses requests by their headers.

    Args:
      host: the address that the server listens on.
      token: the secret that clients must know; `None` for a server on a loopback address.
      allowed_hosts: more names by which clients may call the server, in lower case.

    Raises:
      ValueError: there is no token although others could connect, or the token is too weak.
    """

    host: str
    token: str | None = attrs.field(default=None, repr=False)
    allowed_hosts: Collection[str] = ()

    def __attrs_post_init__(self) -> None:
        if self.token is not None:
            check_token(self.token)
        if self.token is None and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host!r} is not a loopback address, so other machines could read the"
                " statistics: give a token (a secret that every client must know), or"
                " serve on 127.0.0.1"
            )

    def refuse_caller(self, headers: Headers) -> Answer | None:
        """Refuse a request that a web page from elsewhere has sent."""
        found = dict(headers)
        authority = found.get(b"host", b"").decode("latin-1").lower()
        if not self._knows(_name_of(authority)):
            return refuse(403, f"this host is not called {authority!r}; see allowed_hosts")
        origin = found.get(b"origin")
        if origin is not None:
            scheme, _, rest = origin.decode("latin-1").lower().partition("://")
            if scheme not in {"http", "https"} or rest != authority:
                return refuse(403, "pages from elsewhere may not read this")
        return None

    def refuse_stranger(self, headers: Headers) -> Answer | None:
        """Refuse a request without the token, if there is one."""
        if self.token is None:
            return None
        every = (token for name, value in headers for token in _tokens(name, value))
        offered = list(itertools.islice(every, _MAX_OFFERED))
        if any(hmac.compare_digest(token, self.token.encode()) for token in offered):
            return None
        return refuse(401, "a bearer token is needed" if not offered else "the token is wrong")

    def _knows(self, name: str) -> bool:
        """Return True if `name` is a name of this server.

        An address always is: a page from elsewhere cannot make another machine's address
        lead here.
        """
        if is_loopback(name) or name in self.allowed_hosts:
            return True
        return not is_loopback(self.host) and (name == self.host.lower() or _is_address(name))


def _tokens(name: bytes, value: bytes) -> Iterable[bytes]:
    """Return the bearer tokens in one header."""
    if name == b"authorization":
        scheme, _, token = value.partition(b" ")
        if scheme.lower() == b"bearer":
            yield token.strip()
    elif name == b"sec-websocket-protocol":
        for protocol in value.decode("latin-1").split(",", _MAX_OFFERED)[:_MAX_OFFERED]:
            bare = protocol.strip()
            if bare.startswith(BEARER_PROTOCOL):
                yield _from_base64(bare.removeprefix(BEARER_PROTOCOL))


def _from_base64(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return b""
