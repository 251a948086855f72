"""The sets of a resolver that is wrapped by another one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from typing import TypeAlias

import trio

from .._model.backend import Backend
from .._util import unwrap_single
from ..abc import Resolver

Sets: TypeAlias = "trio.MemoryReceiveChannel[Collection[Backend]]"
Updates: TypeAlias = "trio.MemorySendChannel[Collection[Backend]]"


@asynccontextmanager
async def receiving(resolver: Resolver) -> AsyncIterator[tuple[Sets, trio.Nursery]]:
    """Run a resolver while the block runs: yield the channel of its sets, and the nursery.

    The channel ends when the resolver returns. An exception of the resolver, of the block, or
    of another task in the nursery comes out as it is, and not in an exception group.
    """
    outbox, inbox = trio.open_memory_channel[Collection[Backend]](0)
    crash: BaseException | None = None
    try:
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            nursery.start_soon(_run_and_close, resolver, outbox)
            yield inbox, nursery
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        crash = unwrap_single(group)
    if crash is not None:
        raise crash


async def _run_and_close(resolver: Resolver, outbox: Updates) -> None:
    async with outbox:
        await resolver.run(outbox)


def in_full(backends: Iterable[Backend]) -> list[tuple[object, ...]]:
    """Return all of some backends, to compare sets by. Equality leaves out some fields."""
    return [(one, one.priority, one.weight, one.target) for one in backends]
