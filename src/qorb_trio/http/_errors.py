"""Errors of an exchange: which of httpx's they are, and whether the server is to blame."""

from __future__ import annotations

from typing import Any, Final

import h11
import trio

from .. import ClaimError, ClaimTimeoutError

#: Errors by which a connection shows that it is lost.
LOST: Final = (OSError, trio.BrokenResourceError)


class LostConnectionError(ConnectionError):
    """The server has closed or reset the connection before it answered."""


class ExchangeTimeoutError(Exception):
    """One step of an exchange took longer than its timeout; `step` is "read" or "write"."""

    def __init__(self, step: str, seconds: float, suspicion: str = "") -> None:
        reason = f": {suspicion}" if suspicion else ""
        super().__init__(f"the {step} timeout of {seconds:g} s is over{reason}")
        self.step = step


class BodyError(Exception):
    """The iterator of a request's body has raised `error`."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


#: Errors of an exchange that become errors of httpx.
TRANSLATED: Final = (
    *LOST,
    trio.ClosedResourceError,
    h11.ProtocolError,
    ExchangeTimeoutError,
    ClaimError,
)


def translate(exc: Exception, library: Any, request: object) -> Exception:
    """Return the error of httpx, or httpx2, for one of `TRANSLATED`."""
    kind: type[Exception] = getattr(library, _name_for(exc))
    return kind(str(exc) or type(exc).__name__, request=request)  # type: ignore[call-arg]


def _name_for(exc: Exception) -> str:
    match exc:
        case ClaimTimeoutError():
            return "PoolTimeout"
        case ClaimError():
            return "ConnectError"
        case ExchangeTimeoutError():
            return f"{exc.step.capitalize()}Timeout"
        case h11.LocalProtocolError():
            return "LocalProtocolError"
        case h11.ProtocolError():
            return "RemoteProtocolError"
        case _:
            return "ReadError"


def is_servers_fault(exc: BaseException) -> bool:
    """Return true if an error of an exchange speaks against the server."""
    return isinstance(exc, (*LOST, h11.RemoteProtocolError, ExchangeTimeoutError))
