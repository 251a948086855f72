"""The asyncio side of `_contestant.py`: ``python -m adapters._asyncio NAME``.

One order a line comes in, one answer a line goes out. While it waits for an order all of
the process stands still, so that it does not disturb the others.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import sys
from contextlib import AsyncExitStack
from time import perf_counter
from typing import Any

from _work import Lend, warm_claims


async def crowd(lend: Lend, tasks: int, claims: int) -> float:
    """Return the microseconds per claim when `tasks` tasks make `claims` claims each."""

    async def claimant() -> None:
        for _ in range(claims):
            async with lend():
                await asyncio.sleep(0)

    begin = perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(claimant())
    return (perf_counter() - begin) / (tasks * claims) * 1e6


def answer(words: object) -> None:
    """Say something to the benchmark."""
    print(json.dumps(words), flush=True)


async def serve(adapter: Any) -> None:
    """Carry out orders until there are no more."""
    answer(adapter.VERSION)
    lends: dict[int, Lend] = {}
    async with AsyncExitStack() as stack:
        while line := sys.stdin.readline():
            order = json.loads(line)
            slots = order.pop("slots")
            if slots not in lends:
                lends[slots] = await stack.enter_async_context(adapter.full_pool(slots))
            gc.collect()
            if order.pop("work") == "warm":
                answer(await warm_claims(lends[slots], **order))
            else:
                answer(await crowd(lends[slots], **order))


if __name__ == "__main__":
    asyncio.run(serve(importlib.import_module(f"adapters.{sys.argv[1]}")))
