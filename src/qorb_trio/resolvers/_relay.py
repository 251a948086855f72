"""The sets of a resolver that is wrapped by another one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import NoReturn, TypeAlias

import trio

from .._model.backend import Backend
from .._util import unwrap_single
from ..abc import Resolver

Sets: TypeAlias = "trio.MemoryReceiveChannel[Collection[Backend]]"
Updates: TypeAlias = "trio.MemorySendChannel[Collection[Backend]]"


async def run_around(
    resolver: Resolver, body: Callable[[Sets, trio.Nursery], Awaitable[NoReturn]]
) -> NoReturn:
    """Run a resolver, and beside it `body`, which gets the channel of its sets.

    The channel ends when the resolver returns; `body` never returns. An exception of the
    resolver, of `body`, or of another task in the nursery that `body` gets comes out as it
    is, and not in an exception group.
    """
    outbox, inbox = trio.open_memory_channel[Collection[Backend]](0)
    try:
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            nursery.start_soon(_run_and_close, resolver, outbox)
            await body(inbox, nursery)
    except BaseExceptionGroup as group:
        crash = unwrap_single(group)
    raise crash


async def _run_and_close(resolver: Resolver, outbox: Updates) -> None:
    async with outbox:
        await resolver.run(outbox)


def in_full(backends: Iterable[Backend]) -> list[tuple[object, ...]]:
    """Return all of some backends, to compare sets by. Equality leaves out some fields."""
    return [(one, one.priority, one.weight, one.target) for one in backends]
