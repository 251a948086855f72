"""Sweeps of the aids for tests."""

from __future__ import annotations

from contextlib import suppress

import dns.asyncquery
import dns.message
import trio

from qorb_trio import Backend, Policy, open_pool
from qorb_trio.testing import (
    DnsServer,
    FakeConnector,
    HookedFakeConnector,
    ManualResolver,
    MemoryConnector,
    MemoryStream,
    RecordingInstrument,
)

from ..harness import Sweep
from .registry import sweeps


@sweeps(
    FakeConnector.perform,
    FakeConnector.connect,
    FakeConnector.disconnect,
    HookedFakeConnector.is_valid,
    HookedFakeConnector.on_acquire,
    HookedFakeConnector.on_recycle,
    name="one connection",
)
async def one_connection(one: Sweep) -> None:
    """A connection goes through all hooks; each is slow, and stalls for a while."""
    connector = HookedFakeConnector()
    backend = Backend(("a.test", 1))

    async def target() -> None:
        conn = await connector.connect(backend)
        try:
            await connector.on_acquire(conn)
            await connector.on_recycle(conn)
            await connector.is_valid(conn)
        finally:
            await connector.disconnect(conn)  # noqa: ASYNC102 - it must bear it

    async def heal() -> None:
        for hook in ("connect", "on_acquire", "on_recycle", "is_valid", "disconnect"):
            await trio.sleep(1)
            connector.heal(on=hook)

    for hook in ("connect", "on_acquire", "on_recycle", "is_valid", "disconnect"):
        connector.slow(None, 0.5, on=hook)
        connector.stall(on=hook)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heal)
        await one.target(target)
        nursery.cancel_scope.cancel()
    connector.assert_all_closed()
    assert not connector._switches._changed


@sweeps(FakeConnector.connect, FakeConnector.disconnect, name="a pool")
async def a_pool(one: Sweep) -> None:
    """A pool is opened, used and left; each step of each task counts."""
    connector = FakeConnector(connect_delay=0.1, disconnect_delay=0.1)

    async def target() -> None:
        resolver = ManualResolver(["a.test:1"])
        policy = Policy(max_slots=2, spares_wanted=1)
        async with trio.open_nursery() as nursery:
            async with open_pool(nursery, resolver, connector, policy=policy) as pool:
                async with pool.claim():
                    resolver.set(["b.test:1"])
                await pool.wait_ready()

    one.deep = True
    await one.target(target)
    connector.assert_all_closed()


@sweeps(
    MemoryConnector.connect,
    MemoryStream.send_all,
    MemoryStream.receive_some,
    MemoryStream.wait_send_all_might_not_block,
    MemoryStream.send_eof,
    MemoryStream.aclose,
    name="streams in memory",
)
async def streams_in_memory(one: Sweep) -> None:
    """A stream is opened, used and closed; its handler always sees the end."""
    ended: list[int] = []

    async def handler(stream: MemoryStream, backend: Backend) -> None:
        received = 0
        try:
            async for data in stream:
                received += len(data)
                await stream.send_all(data)
                await trio.sleep(0.1)
        finally:
            ended.append(received)

    connector = MemoryConnector(handler)

    async def target() -> None:
        conn = await connector.connect(Backend(("a.test", 1)))
        try:
            await conn.wait_send_all_might_not_block()
            await conn.send_all(b"ping")
            assert await conn.receive_some(2) == b"pi"
            assert conn.unread == 2
            await conn.send_eof()
            await conn.receive_some()
            await conn.receive_some()
        finally:
            await conn.aclose()  # noqa: ASYNC102 - it must bear it

    await one.target(target)
    await trio.sleep(1)
    assert len(ended) == len(connector.connections)
    assert not set(ended) - {0, 4}
    connector.assert_all_closed()


@sweeps(RecordingInstrument.wait_for, name="an event", seeds=3)
async def an_event(one: Sweep) -> None:
    """Wait for an event while another task does too; a cancelled waiter is removed."""
    recording = RecordingInstrument()
    connector = FakeConnector(connect_delay=0.1)

    async def other() -> None:
        assert (await recording.wait_for("connect_done", count=2)).name == "connect_done"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        async with open_pool(
            nursery, ManualResolver(["a.test:1"]), connector, instruments=[recording]
        ) as pool:
            await one.target(lambda: recording.wait_for("connect_done", count=2))
            await pool.wait_ready(2)
    assert not recording._news
    connector.assert_all_closed()


async def ask(server: DnsServer) -> None:
    """Ask by UDP, and by TCP."""
    host, port = server.address
    query = dns.message.make_query("a.test.", "A")
    for transport in (dns.asyncquery.udp, dns.asyncquery.tcp):
        response = await transport(query, host, port=port, timeout=5)
        assert response.answer


def a_server() -> DnsServer:
    """A server that takes its time."""
    server = DnsServer(origin="test.", fault=lambda query: 0.001)
    server.set("a", "A", "127.0.0.1")
    return server


@sweeps(DnsServer.__aenter__, DnsServer.__aexit__, name="a block", real=True)
async def a_block(one: Sweep) -> None:
    """A server is started, asked, and stopped; then it can be started again."""
    server = a_server()

    async def target() -> None:
        async with server:
            await ask(server)

    await one.target(target)
    async with server:
        pass


@sweeps(DnsServer.serve, DnsServer.__aenter__, name="each step of each task", real=True, seeds=1)
async def all_of_a_block(one: Sweep) -> None:
    """The same, and each step of each of its tasks counts."""
    one.deep = True
    await a_block(one)


@sweeps(DnsServer.serve, name="a task", real=True, seeds=1)
async def a_task(one: Sweep) -> None:
    """A server runs as a task, and is asked by others until it is cancelled."""
    server = a_server()

    async def target() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve)
            clients.start_soon(client)
            await trio.sleep(0.03)
            nursery.cancel_scope.cancel()

    async def client() -> None:
        gone = (OSError, EOFError, trio.BrokenResourceError)
        with trio.move_on_after(0.02), suppress(*gone):
            await ask(server)

    one.deep = True
    async with trio.open_nursery() as clients:
        await one.target(target)
        clients.cancel_scope.cancel()
    assert not server._serving
