"""The proxy by itself: that each fault is what it is called."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from .left import PATIENCE, until
from .proxy import Fault, FaultProxy

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("leaves_nothing")]


async def echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)


@asynccontextmanager
async def proxied() -> AsyncIterator[tuple[FaultProxy, trio.SocketStream]]:
    """A proxy before an echo server, and a connection through it that has been used."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            listen = partial(trio.serve_tcp, echo, 0, host="127.0.0.1")
            [server] = await nursery.start(listen)
            proxy = FaultProxy(server.socket.getsockname())
            await nursery.start(proxy.serve)
            async with await trio.open_tcp_stream(*proxy.address) as client:
                await ask(client, b"hello")
                yield proxy, client
            nursery.cancel_scope.cancel()


async def ask(client: trio.SocketStream, request: bytes) -> None:
    """Send, and see that the same comes back."""
    await client.send_all(request)
    reply = b""
    while len(reply) < len(request):
        chunk = await client.receive_some()
        assert chunk
        reply += chunk
    assert reply == request


async def silent(client: trio.SocketStream) -> bool:
    """Return True if the client receives nothing for 0.1 seconds."""
    with trio.move_on_after(0.1):
        await client.receive_some()
        return False
    return True


async def test_delay() -> None:
    """A delayed message arrives whole, and no earlier than after both delays."""
    async with proxied() as (proxy, client):
        proxy.inflict(Fault.DELAY)
        start = trio.current_time()
        await ask(client, b"slowly")
        assert trio.current_time() - start >= 2 * proxy.delay


async def test_stall() -> None:
    """A stalled message arrives when the fault is over."""
    async with proxied() as (proxy, client):
        proxy.inflict(Fault.STALL)
        await client.send_all(b"wait")
        assert await silent(client)
        proxy.heal()
        assert await client.receive_some() == b"wait"


async def test_blackhole() -> None:
    """Messages that vanish never arrive, even later, and new connections get no answer."""
    async with proxied() as (proxy, client):
        proxy.inflict(Fault.BLACKHOLE)
        await client.send_all(b"lost")
        async with await trio.open_tcp_stream(*proxy.address) as late:
            await late.send_all(b"lost too")
            assert await silent(client)
            assert await silent(late)
            proxy.heal()
            await ask(client, b"found")
            await ask(late, b"found too")


async def test_reset() -> None:
    """Existing connections are reset, and so are new ones."""
    async with proxied() as (proxy, client):
        proxy.inflict(Fault.RESET)
        with pytest.raises(trio.BrokenResourceError) as caught:
            await client.receive_some()
        assert isinstance(caught.value.__cause__, ConnectionResetError)
        async with await trio.open_tcp_stream(*proxy.address) as late:
            with pytest.raises(trio.BrokenResourceError):
                await late.receive_some()
        await until(lambda: not proxy.links, "the proxy has forgotten them")


async def test_idle_connections_are_closed() -> None:
    """A connection that nobody has used for a while is closed, and one in use is not."""
    async with proxied() as (proxy, client):
        await ask(client, b"hello")
        assert proxy.close_idle(5) == 0
        await ask(client, b"still there")
        await trio.sleep(0.02)
        assert proxy.close_idle(0.01) == 1
        assert await client.receive_some() == b""


async def test_half_close() -> None:
    """The server has ended and still reads: what is sent neither fails nor is answered."""
    async with proxied() as (proxy, client):
        proxy.inflict(Fault.HALF_CLOSE)
        assert await client.receive_some() == b""
        for _ in range(3):
            await client.send_all(b"is anybody there")
            await trio.sleep(0.02)
        assert await client.receive_some() == b""
        assert len(proxy.links) == 1


async def test_truncate() -> None:
    """Half of a reply comes, and then the end."""
    async with proxied() as (proxy, client):
        proxy.inflict(Fault.TRUNCATE)
        await client.send_all(b"0123456789")
        assert await client.receive_some() == b"01234"
        assert await client.receive_some() == b""


async def test_corrupt() -> None:
    """One bit of a reply is another."""
    async with proxied() as (proxy, client):
        proxy.inflict(Fault.CORRUPT)
        await client.send_all(b"0123456789")
        reply = await client.receive_some()
        wrong = [a ^ b for a, b in zip(reply, b"0123456789", strict=True) if a != b]
        assert wrong == [0x10]


async def test_some_connections_only() -> None:
    """With odds of none, nothing is done wrong at all."""
    async with proxied() as (proxy, client):
        for fault in Fault:
            proxy.inflict(fault, odds=0)
            await ask(client, b"as ever")


async def test_nobody_behind_it() -> None:
    """Without a server behind it, a connection is ended at once."""
    async with proxied() as (proxy, client):
        await ask(client, b"there")
        with trio.socket.socket() as sock:
            await sock.bind(("127.0.0.1", 0))
            proxy.target = sock.getsockname()  # bound, and nobody listens
            async with await trio.open_tcp_stream(*proxy.address) as late:
                assert await late.receive_some() == b""
