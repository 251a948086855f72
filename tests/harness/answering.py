"""A server that says one thing, whatever it is asked."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from qorb_trio import Backend


@asynccontextmanager
async def answering_server(
    answer: bytes, *, closes: bool = False, resets: bool = False
) -> AsyncIterator[Backend]:
    """Run a server that gives one answer, or none.

    It keeps the connection open unless it is told to close or to reset it.
    """

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        if answer:
            await stream.send_all(answer)
        if resets:
            at_once = struct.pack("ii", 1, 0)
            stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, at_once)
        elif not closes:
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(
            partial(trio.serve_tcp, serve, 0, host="127.0.0.1")
        )
        yield Backend(listeners[0].socket.getsockname())
        nursery.cancel_scope.cancel()
