"""The work that is measured, the same for every pool and for every event loop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from time import perf_counter
from typing import TypeAlias

#: Claims something, for the length of an ``async with``.
Lend: TypeAlias = Callable[[], AbstractAsyncContextManager[object]]

#: Seconds that one sample of warm claims takes, or a single claim where that takes longer.
ENOUGH = 0.02


async def warm_claims(lend: Lend, *, enough: float = ENOUGH) -> float:
    """Microseconds for one claim and its release, when nothing is in the way."""
    begin = perf_counter()
    done, batch, spent = 0, 1, 0.0
    while spent <= enough:
        for _ in range(batch):
            async with lend():
                pass
        done += batch
        batch = min(done, 200)  # the clock is read seldom, but before the time is far over
        spent = perf_counter() - begin
    return spent / done * 1e6
