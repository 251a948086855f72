"""`Guard`: who may read. No I/O here.

A web page from elsewhere runs on the machine of whoever looks at it, and so could reach
what listens on that machine's loopback interface. Two headers give it away, and no page can
forge them: ``Origin`` tells where the page is from, and ``Host`` has the name that the page
connected to, which is the page's own if it has had that name lead here ("DNS rebinding").
"""

from __future__ import annotations

import base64
import hmac
import ipaddress
import re
from collections.abc import Collection, Iterable
from typing import final
from urllib.parse import urlsplit

import attrs

from ._http import Answer, refuse

#: A browser can give a WebSocket no header but this one, so it brings the token as one of
#: its subprotocols, in base64: ``qtop, bearer.dG9rZW4``.
BEARER_PROTOCOL = "bearer."

Headers = Iterable[tuple[bytes, bytes]]


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to `host`, as far as can be told from it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_token(token: str) -> None:
    """Raise `ValueError` for what cannot be sent as a token; without repeating it."""
    if not re.fullmatch(r"[!-~]+", token):
        raise ValueError("token must be of visible ASCII characters, at least one, no space")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _name_of(authority: str) -> str:
    """The host of ``host:port``, or an empty one."""
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""


@final
@attrs.frozen
class Guard:
    """Looks at the headers of a request, and refuses it or does not."""

    host: str
    token: str | None = attrs.field(default=None, repr=False)
    allowed_hosts: Collection[str] = ()

    def __attrs_post_init__(self) -> None:
        if self.token is not None:
            check_token(self.token)
        if self.token is None and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host!r} is not a loopback address, so that others could read the"
                " statistics: give a token (a secret that whoever watches must know), or"
                " serve on 127.0.0.1"
            )

    def refuse_caller(self, headers: Headers) -> Answer | None:
        """Refuse what a web page from elsewhere has sent."""
        found = dict(headers)
        authority = found.get(b"host", b"").decode("latin-1").lower()
        if not self._knows(_name_of(authority)):
            return refuse(403, f"this host is not called {authority!r}; see allowed_hosts")
        origin = found.get(b"origin")
        if origin is not None:
            scheme, _, rest = origin.decode("latin-1").lower().partition("://")
            if scheme not in {"http", "https"} or rest != authority:
                return refuse(403, "this is not for pages from elsewhere")
        return None

    def refuse_stranger(self, headers: Headers) -> Answer | None:
        """Refuse who does not know the token, if there is one."""
        if self.token is None:
            return None
        offered = [token for name, value in headers for token in _tokens(name, value)]
        if any(hmac.compare_digest(token, self.token.encode()) for token in offered):
            return None
        return refuse(401, "a bearer token is needed" if not offered else "the token is wrong")

    def _knows(self, name: str) -> bool:
        """Whether a client that means this server may call it so.

        By its address it may: nobody can have another machine's address lead here.
        """
        if is_loopback(name) or name in self.allowed_hosts:
            return True
        return not is_loopback(self.host) and (name == self.host.lower() or _is_address(name))


def _tokens(name: bytes, value: bytes) -> Iterable[bytes]:
    """The bearer tokens in one header."""
    if name == b"authorization":
        scheme, _, token = value.partition(b" ")
        if scheme.lower() == b"bearer":
            yield token.strip()
    elif name == b"sec-websocket-protocol":
        for protocol in value.decode("latin-1").split(","):
            bare = protocol.strip()
            if bare.startswith(BEARER_PROTOCOL):
                yield _from_base64(bare.removeprefix(BEARER_PROTOCOL))


def _from_base64(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return b""
