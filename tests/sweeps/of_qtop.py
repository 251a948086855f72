"""A sweep of qtop's server."""

from __future__ import annotations

from functools import partial
from typing import Any

import trio

from qorb_trio import qtop
from qorb_trio.qtop._client import Target, connect
from qorb_trio.qtop._server import Server

from ..harness import Sweep
from ..qtop.kit import a_pool, is_recorded
from .registry import sweeps


@sweeps(qtop.serve, name="somebody watches", by=(Server.run, Server.handle), real=True, seeds=1)
async def somebody_watches(one: Sweep) -> None:
    """A server is started and watched; stopped at whatever step, it closes all it had open."""
    async with a_pool() as pool:
        await one.target(served, one, pool)
        assert not await is_recorded(pool)


async def served(one: Sweep, pool: Any) -> None:
    """Serve for as long as a client watches."""
    one.deep = True
    async with trio.open_nursery() as nursery:
        serve: Any = partial(qtop.serve, [pool], port=0)
        listeners = await nursery.start(serve)
        host, port = listeners[0].socket.getsockname()[:2]
        async with connect(Target("ws", host, port, f"{host}:{port}", "/qtop/stats")) as socket:
            assert await socket.receive()
        nursery.cancel_scope.cancel()
