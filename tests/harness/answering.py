"""A server that says one thing, whatever it is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from qorb_trio import Backend


@asynccontextmanager
async def answering_server(answer: bytes, *, closes: bool = False) -> AsyncIterator[Backend]:
    """Run a server that gives one answer, or none, and keeps the connection open unless told."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        if answer:
            await stream.send_all(answer)
        if not closes:
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(
            partial(trio.serve_tcp, serve, 0, host="127.0.0.1")
        )
        yield Backend(listeners[0].socket.getsockname())
        nursery.cancel_scope.cancel()
