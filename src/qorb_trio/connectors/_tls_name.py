"""Choose the name that a server's certificate is checked against. Decisions only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from .._model.backend import Backend

#: One name for all backends, a function of the backend, or `None` for the default.
ServerHostname: TypeAlias = "str | Callable[[Backend], str] | None"


def verified_name(given: ServerHostname, backend: Backend) -> str:
    """Return the name to send (SNI) and to check: `given`, or the target, or the host.

    Raises:
      ValueError: if that is not a name. A `None` must never reach the `ssl` module, because
        with it `ssl.SSLContext.wrap_bio` checks no name at all.
    """
    if callable(given):
        return _clean(given(backend), f"server_hostname returned {{!r}} for {backend.name}")
    name = given or backend.target or backend.host
    if name is None:
        raise ValueError(
            f"{backend.name} has no host name that a certificate could be checked against:"
            " give TlsConnector(server_hostname=...)"
        )
    return _clean(name, f"the server_hostname of {backend.name} is {{!r}}")


def _clean(name: object, complaint: str) -> str:
    """Strip what no certificate has: the root's dot, and the zone of an IPv6 address."""
    if isinstance(name, str):
        bare = name.removesuffix(".")
        if ":" in bare:
            bare = bare.partition("%")[0]
        if bare.strip():
            return bare
    raise ValueError(f"{complaint.format(name)}: it must be a non-empty str")
