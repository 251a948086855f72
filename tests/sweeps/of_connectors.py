"""Sweeps of the connectors that come with the package, on real sockets."""

from __future__ import annotations

import functools
import ssl
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import trio
import trustme

from qorb_trio import (
    Backend,
    Connector,
    ContextConnector,
    FixedResolver,
    Policy,
    TcpConnector,
    ThreadConnection,
    ThreadConnector,
    TlsConnector,
    UnixConnector,
    open_pool,
)

from ..connectors.kit import tcp_listener, unix_listener
from ..harness import Sweep
from .registry import sweeps


@functools.cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's and the client's; to make them takes longer than a run."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(server)
    authority.configure_trust(client)
    return server, client


class LateTlsConnector(TlsConnector):
    """TLS after a word in clear: what `start_tls` is for."""

    async def connect(self, backend: Backend) -> trio.SSLStream[trio.SocketStream]:
        """Say the word first."""
        stream = await TcpConnector().connect(backend)
        try:
            await stream.send_all(b"!")
        except BaseException:
            stream.socket.close()
            raise
        return await self.start_tls(stream, backend)


def a_connector(kind: str) -> Connector[Any]:
    """One of that kind."""
    if "tls" in kind:
        return (LateTlsConnector if kind == "late tls" else TlsConnector)(contexts()[1])
    return UnixConnector() if kind == "unix" else TcpConnector()


@asynccontextmanager
async def a_server(kind: str) -> AsyncIterator[tuple[Connector[Any], Backend]]:
    """A server that echoes; a connector for it, and where it is."""

    async def serve(stream: trio.SocketStream) -> None:
        talk: Any = stream
        with suppress(trio.BrokenResourceError):
            if "tls" in kind:
                if kind == "late tls":
                    await stream.receive_some(1)
                talk = trio.SSLStream(stream, contexts()[0], server_side=True)
            async for data in talk:
                await talk.send_all(data)
        await trio.aclose_forcefully(talk)

    with tempfile.TemporaryDirectory() as folder:
        listener, backend = await (
            unix_listener(Path(folder) / "s") if kind == "unix" else tcp_listener()
        )
        if kind == "name":
            backend = Backend(("localhost", backend.port or 0))
        connector = a_connector(kind)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            yield connector, backend
            nursery.cancel_scope.cancel()


async def one_connection(one: Sweep, *, kind: str) -> None:
    """A connection is opened, used and closed."""

    async def target(connector: Connector[Any], backend: Backend) -> None:
        conn = await connector.connect(backend)
        try:
            await conn.send_all(b"ping")
            assert await conn.receive_some(4) == b"ping"
        finally:
            await connector.disconnect(conn)  # noqa: ASYNC102 - it must bear it

    async with a_server(kind) as (connector, backend):
        await one.target(target, connector, backend)


async def a_pool(one: Sweep, *, kind: str) -> None:
    """A pool of such connections is opened, used and left; each step of each task counts."""

    async def target(connector: Connector[Any], backend: Backend) -> None:
        policy = Policy(max_slots=2, spares_wanted=1)
        resolver = FixedResolver([backend])
        async with trio.open_nursery() as nursery:
            async with open_pool(nursery, resolver, connector, policy=policy) as pool:
                async with pool.claim() as conn:
                    await conn.send_all(b"ping")
                    assert await conn.receive_some(4) == b"ping"

    one.deep = True
    async with a_server(kind) as (connector, backend):
        await one.target(target, connector, backend)


CONNECT: dict[str, Callable[..., Any]] = {
    "address": TcpConnector.connect,
    "name": TcpConnector.connect,
    "unix": UnixConnector.connect,
    "tls": TlsConnector.connect,
    "late tls": TlsConnector.start_tls,
}

DISCONNECT: dict[str, Callable[..., Any]] = {
    "address": TcpConnector.disconnect,
    "name": TcpConnector.disconnect,
    "unix": UnixConnector.disconnect,
    "tls": TlsConnector.disconnect,
    "late tls": TlsConnector.disconnect,
}

for _kind, _connect in CONNECT.items():
    sweeps(_connect, DISCONNECT[_kind], name=_kind, real=True)(partial(one_connection, kind=_kind))
sweeps(TcpConnector.connect, name="a pool", real=True, seeds=1)(partial(a_pool, kind="address"))


class BlockingDriver:
    """A driver's connection that takes its time, and counts those that are open."""

    open = 0

    def __init__(self, _: Backend) -> None:
        threading.Event().wait(0.001)
        BlockingDriver.open += 1
        self.interrupted = threading.Event()

    def block(self) -> None:
        """Wait until the call is cancelled; not for long, because nobody may cancel it."""
        self.interrupted.wait(0.02)

    def close(self) -> None:
        """Close, once."""
        self.interrupted.set()
        threading.Event().wait(0.001)
        BlockingDriver.open -= 1


@sweeps(
    ThreadConnector.connect,
    ThreadConnection.run,
    ThreadConnector.on_recycle,
    ThreadConnector.disconnect,
    name="a blocking driver",
    real=True,
)
async def a_blocking_driver(one: Sweep) -> None:
    """A driver's connection is opened, used, cleaned and closed, each in a thread."""

    def interrupt(driver: BlockingDriver) -> None:
        driver.interrupted.set()

    connector = ThreadConnector(BlockingDriver, cancel=interrupt)

    async def target() -> None:
        conn = await connector.connect(Backend(("a.test", 1)))
        try:
            with trio.move_on_after(0.001):
                await conn.run(BlockingDriver.block)
            await connector.on_recycle(conn)
        finally:
            await connector.disconnect(conn)  # noqa: ASYNC102 - it must bear it

    await one.target(target)
    with trio.fail_after(5):
        while BlockingDriver.open:  # noqa: ASYNC110 - the last thread sets no event of Trio's
            await trio.sleep(0.001)


@sweeps(
    ContextConnector.__aenter__,
    ContextConnector.connect,
    ContextConnector.disconnect,
    ContextConnector.__aexit__,
    name="managers",
    by=(ContextConnector.connect, ContextConnector.disconnect, ContextConnector.__aexit__),
)
async def managers(one: Sweep) -> None:
    """Two context managers are entered; one is disconnected, the other left with the block."""
    log: list[str] = []

    @asynccontextmanager
    async def open_(_: Backend) -> AsyncIterator[object]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep(0.1)
            log.append("entered")
            try:
                yield object()
                await trio.sleep(0.1)
            finally:
                log.append("left")
            nursery.cancel_scope.cancel()

    async def target() -> None:
        async with ContextConnector(open_) as connector:
            backend = Backend(("a.test", 1))
            conn = await connector.connect(backend)
            await connector.connect(backend)
            await connector.disconnect(conn)
            assert len(connector._by_connection) == len(connector._visits) == 1

    await one.target(target)
    assert log.count("entered") == log.count("left")


@sweeps(ContextConnector.connect, name="a pool of managers")
async def a_pool_of_managers(one: Sweep) -> None:
    """A pool of managers is opened, used and left; each step of each task counts."""
    managers: list[ContextConnector[object]] = []
    log: list[str] = []

    @asynccontextmanager
    async def open_(_: Backend) -> AsyncIterator[object]:
        await trio.sleep(0.1)
        log.append("entered")
        try:
            yield object()
            await trio.sleep(0.1)
        finally:
            log.append("left")

    async def target() -> None:
        policy = Policy(max_slots=2, spares_wanted=1)
        resolver = FixedResolver([Backend(("a.test", 1))])
        async with trio.open_nursery() as nursery:
            async with (
                ContextConnector(open_) as connector,
                open_pool(nursery, resolver, connector, policy=policy) as pool,
            ):
                managers.append(connector)
                async with pool.claim():
                    await trio.sleep(0.1)

    one.deep = True
    await one.target(target)
    assert log.count("entered") == log.count("left")
    for connector in managers:
        assert not connector._visits
        assert not connector._by_connection
