"""The timeouts of a request, as httpx keeps them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final

import attrs


@final
@attrs.frozen
class Timeouts:
    """Seconds for the steps of a request; `math.inf` is no limit."""

    #: Until there is a connection; `None` is the pool's ``claim_timeout``.
    pool: float | None
    #: For each wait for bytes of the response.
    read: float
    #: For each piece of the request.
    write: float

    @classmethod
    def of(cls, extensions: Mapping[str, Any]) -> Timeouts:
        """Return the timeouts among a request's extensions, where `None` means no limit."""
        given: Mapping[str, float | None] = extensions.get("timeout") or {}
        pool = _seconds(given.get("pool")) if "pool" in given else None
        return cls(pool, _seconds(given.get("read")), _seconds(given.get("write")))


def _seconds(value: float | None) -> float:
    return math.inf if value is None else value
