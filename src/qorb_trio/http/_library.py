"""httpx and httpx2: two packages with the same names. Either one suffices.

A request and its response, its streams and its errors must come from the same package. The
classes of this package derive from those of every one that is installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


def _installed(*names: str) -> tuple[Any, ...]:
    found = []
    for name in names:
        try:
            found.append(importlib.import_module(name))
        except ImportError:
            continue
    if not found:
        raise ImportError("qorb_trio.http needs httpx, or httpx2: pip install 'qorb-trio[http]'")
    return tuple(found)


#: The packages that are installed.
LIBRARIES: tuple[Any, ...] = _installed("httpx", "httpx2")

if TYPE_CHECKING:
    import httpx  # noqa: ASYNC127 - many programs still use it
    import httpx2

    class AsyncBaseTransport(httpx.AsyncBaseTransport, httpx2.AsyncBaseTransport):  # type: ignore[misc]
        """The base class of transports."""

    class AsyncByteStream(httpx.AsyncByteStream, httpx2.AsyncByteStream):
        """The base class of bodies."""

else:
    AsyncBaseTransport = type(
        "AsyncBaseTransport", tuple(it.AsyncBaseTransport for it in LIBRARIES), {}
    )
    AsyncByteStream = type("AsyncByteStream", tuple(it.AsyncByteStream for it in LIBRARIES), {})


def library_of(request: object) -> Any:
    """Return the package that a request comes from.

    Raises:
      TypeError: it comes from none of them.
    """
    for library in LIBRARIES:
        if isinstance(request, library.Request):
            return library
    raise TypeError(f"request must be a Request of httpx or httpx2, not {request!r}")
