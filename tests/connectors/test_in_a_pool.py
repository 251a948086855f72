"""The connectors in a pool, against a server on real sockets."""

from __future__ import annotations

import ssl
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trustme

from qorb_trio import Connector, Policy, open_pool
from qorb_trio.connectors import TcpConnector, TlsConnector
from qorb_trio.testing import ManualResolver

from .kit import no_socket_left

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qorb_trio import Pool

pytestmark = pytest.mark.real

#: Messages that make the server behave as `Server.serve` says.
ECHO, TWICE, HANG_UP, HANG_UP_LATER = b"echo", b"twin", b"hang", b"late"


class Server:
    """Echoes every four bytes, with a twist for some of them."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self.connections = 0
        self._context = context

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        conn: trio.abc.Stream = stream
        if self._context is not None:
            conn = trio.SSLStream(stream, self._context, server_side=True)
        try:
            while (request := await conn.receive_some(4)) not in {b"", HANG_UP}:
                await conn.send_all(request * 2 if request == TWICE else request)
                if request == HANG_UP_LATER:
                    break
            await conn.aclose()
        except trio.BrokenResourceError:
            pass


@pytest.fixture(params=["tcp", "tls"])
async def served(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Server, Pool[Any]]]:
    """A server, and a pool of one connection to it."""
    context = None
    connector: Connector[Any] = TcpConnector()
    if request.param == "tls":
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(trusting)
        connector = TlsConnector(trusting)
    server = Server(context)
    with no_socket_left():
        async with trio.open_nursery() as nursery:
            serve = partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1")
            [listener] = await nursery.start(serve)
            resolver = ManualResolver([listener.socket.getsockname()[:2]])
            policy = Policy(spares_wanted=1, max_slots=1)
            async with open_pool(nursery, resolver, connector, policy=policy) as pool:
                yield server, pool
            nursery.cancel_scope.cancel()


async def ask(pool: Pool[Any], request: bytes) -> bytes:
    """Make one exchange in a claim of its own, and read four bytes of the answer."""
    with trio.fail_after(5):
        async with pool.claim() as conn:
            await conn.send_all(request)
            response: bytes = await conn.receive_some(4)
    return response


async def test_one_connection_serves_many_claims(served: tuple[Server, Pool[Any]]) -> None:
    """A connection without fault is kept, session tickets or not."""
    server, pool = served
    for _ in range(20):
        assert await ask(pool, ECHO) == ECHO
    assert server.connections == 1


async def test_what_one_claim_left_unread_no_other_reads(served: tuple[Server, Pool[Any]]) -> None:
    """A connection that came back with unread bytes is replaced."""
    server, pool = served
    for count in range(1, 4):
        assert await ask(pool, TWICE) == TWICE
        assert await ask(pool, ECHO) == ECHO
        assert server.connections == count + 1


async def test_a_connection_that_the_server_closed_is_replaced(
    served: tuple[Server, Pool[Any]],
) -> None:
    """The next claim works if the server hung up while the connection was idle, or in a claim."""
    server, pool = served
    assert await ask(pool, HANG_UP_LATER) == HANG_UP_LATER
    await trio.sleep(0.05)
    assert await ask(pool, ECHO) == ECHO
    assert await ask(pool, HANG_UP) == b""
    assert await ask(pool, ECHO) == ECHO
    assert server.connections == 3
