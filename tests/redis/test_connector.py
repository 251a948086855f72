"""`RedisConnector`: greeting, cleaning, and servers that are left."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import trio

from qorb_trio import Backend, IneligibleBackendError, MisusedConnectionError, StaleConnectionError
from qorb_trio.redis import RedisConnector, RedisError, _server

from .kit import BACKEND, Answer, MemoryStreams, as_any, ok, words


@pytest.mark.parametrize(
    ("options", "greeting"),
    [
        ({}, ["PING"]),
        ({"password": "s"}, ["AUTH s", "PING"]),
        ({"username": "u", "password": "s", "db": 2}, ["AUTH u s", "SELECT 2", "PING"]),
        ({"protocol": 3}, ["HELLO 3", "PING"]),
        ({"protocol": 3, "password": "s"}, ["HELLO 3 AUTH default s", "PING"]),
        ({"role": "primary"}, ["PING", "ROLE"]),
    ],
)
async def test_greeting(
    nursery: trio.Nursery, options: dict[str, Any], greeting: list[str]
) -> None:
    """A session begins with what was asked for, and with a proof that the server works."""
    streams = MemoryStreams(nursery, ok)
    connector = RedisConnector(tcp=streams, **options)
    conn = await connector.connect(BACKEND)
    assert words(streams) == greeting
    assert not conn.needs_cleaning
    await connector.disconnect(conn)
    assert streams.closed == 1


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"tcp": 1}, TypeError, "tcp"),
        ({"username": 1, "password": "s"}, TypeError, "username"),
        ({"password": b"s"}, TypeError, "password"),
        ({"username": "u"}, ValueError, "username"),
        ({"db": -1}, ValueError, "db"),
        ({"db": "0"}, TypeError, "db"),
        ({"protocol": 4}, ValueError, "protocol"),
        ({"protocol": True}, ValueError, "protocol"),
        ({"role": "master"}, ValueError, "role"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], error: type[Exception], word: str) -> None:
    """A wrong argument is refused by name, and a password is not shown."""
    with pytest.raises(error, match=word) as caught:
        RedisConnector(**options)
    assert "b's'" not in str(caught.value)


def refusing(name: bytes, error: bytes) -> Answer:
    """Return the answers of a server that refuses one command."""
    return lambda command: b"-%s\r\n" % error if command[0] == name else ok(command)


async def test_a_password_that_is_refused(nursery: trio.Nursery) -> None:
    """The server's error says so, and the stream is closed."""
    streams = MemoryStreams(nursery, refusing(b"AUTH", b"WRONGPASS invalid password"))
    with pytest.raises(RedisError, match="WRONGPASS"):
        await RedisConnector(tcp=streams, password="s").connect(BACKEND)
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(trio.ClosedResourceError):
        await streams.peers[0].send_all(b"x")  # its server has ended with the stream


@pytest.mark.parametrize("error", [b"LOADING from disk", b"MASTERDOWN no link"])
async def test_a_server_that_is_not_ready_is_ineligible(
    nursery: trio.Nursery, error: bytes
) -> None:
    """A server that loads its data, or has lost its primary, is no failure."""
    streams = MemoryStreams(nursery, refusing(b"PING", error))
    connector = RedisConnector(tcp=streams)
    with pytest.raises(IneligibleBackendError, match=r"redis\.test:6379 is not ready"):
        await connector.connect(BACKEND)
    streams.answer = ok
    await connector.connect(BACKEND)


SLAVE = b"*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:6379\r\n$9\r\nconnected\r\n:1\r\n"


def replica(command: list[bytes]) -> bytes:
    """Answer as a replica does."""
    if command[0] == b"SET":
        return b"-READONLY You can't write against a read only replica.\r\n"
    return SLAVE if command[0] == b"ROLE" else ok(command)


@pytest.mark.parametrize(
    ("role", "answer"), [("primary", replica), ("replica", ok), ("primary", lambda c: b"+x\r\n")]
)
async def test_a_server_of_another_role_is_ineligible(
    nursery: trio.Nursery, role: Any, answer: Answer
) -> None:
    """A replica where a primary is wanted, and the other way round, is no failure."""
    connector = RedisConnector(tcp=MemoryStreams(nursery, answer), role=role)
    with pytest.raises(IneligibleBackendError, match=f"not a {role}"):
        await connector.connect(BACKEND)


async def test_READONLY_leaves_the_backend(nursery: trio.Nursery) -> None:
    """A write that a replica refuses ends all connections to it, until it is a primary."""
    streams = MemoryStreams(nursery, replica)
    connector = RedisConnector(tcp=streams)
    first, second = [await connector.connect(BACKEND) for _ in range(2)]
    other = await connector.connect(Backend(("other.test", 6379)))
    with pytest.raises(RedisError, match="READONLY") as caught:
        await first.execute("SET", "a", 1)
    assert connector.is_failure(first, caught.value)
    for left in (first, second):
        with pytest.raises(StaleConnectionError, match="the server was left: READONLY"):
            connector.is_broken(left)
    assert not connector.is_broken(other)
    with pytest.raises(RedisError, match="READONLY"):
        await second.execute("SET", "a", 1)  # late, and nothing new
    first = second = left = other  # nothing but the connector remembers now
    del caught
    gc.collect()
    with pytest.raises(IneligibleBackendError, match="is a replica, not a primary"):
        await connector.connect(BACKEND)
    streams.answer = ok
    promoted = await connector.connect(BACKEND)
    assert not connector.is_broken(promoted)
    streams.commands.clear()
    await connector.connect(BACKEND)
    assert words(streams) == ["PING"]  # the server is as any other again


async def test_late_errors_say_nothing_of_new_connections(nursery: trio.Nursery) -> None:
    """An error on an old connection does not break a newer one to a promoted server."""
    streams = MemoryStreams(nursery, replica)
    connector = RedisConnector(tcp=streams)
    first, second = [await connector.connect(BACKEND) for _ in range(2)]
    with pytest.raises(RedisError, match="READONLY"):
        await first.execute("SET", "a", 1)
    streams.answer = ok
    promoted = await connector.connect(BACKEND)
    streams.answer = replica
    with pytest.raises(RedisError, match="READONLY"):
        await second.execute("SET", "a", 1)
    assert not connector.is_broken(promoted)


async def test_replicas_may_refuse_to_write(nursery: trio.Nursery) -> None:
    """A pool over replicas does not leave one that says what it is."""
    connector = RedisConnector(tcp=MemoryStreams(nursery, replica), role="replica")
    conn = await connector.connect(BACKEND)
    with pytest.raises(RedisError, match="READONLY") as caught:
        await conn.execute("SET", "a", 1)
    assert not connector.is_broken(conn)
    assert not connector.is_failure(conn, caught.value)


async def test_a_server_that_is_left_as_another_connects(nursery: trio.Nursery) -> None:
    """A connection that began before the server was left is of no use."""
    streams = MemoryStreams(nursery, replica)
    connector = RedisConnector(tcp=streams)
    first = await connector.connect(BACKEND)

    def answer(command: list[bytes]) -> bytes:
        first.leave_server(RedisError("READONLY"))
        return replica(command)

    streams.answer = answer
    second = await connector.connect(BACKEND)
    with pytest.raises(ConnectionError, match="left"):
        connector.is_broken(second)
    with pytest.raises(IneligibleBackendError):
        await connector.connect(BACKEND)


def test_servers_that_were_left_are_forgotten_in_the_end() -> None:
    """The memory of backends that the resolver no longer knows is bounded."""
    directory = _server.Directory(frozenset({"READONLY"}))
    for port in range(1, 1500):
        directory.find(Backend(("a.test", port))).leave(0, RedisError("READONLY"))
    assert len(directory._left) == 1000
    assert directory.find(Backend(("a.test", 1))).trouble is None
    assert directory.find(Backend(("a.test", 1499))).is_read_only


# ---------------------------------------------------------------------------- hooks


async def test_health_checks(nursery: trio.Nursery) -> None:
    """A healthy server answers PING, and has the wanted role."""
    streams = MemoryStreams(nursery, ok)
    plain, primary = RedisConnector(tcp=streams), RedisConnector(tcp=streams, role="primary")
    conn = await plain.connect(BACKEND)
    assert await plain.is_valid(conn)
    assert await primary.is_valid(await primary.connect(BACKEND))
    streams.answer = lambda command: b"+WHAT\r\n"
    assert not await plain.is_valid(conn)


async def test_a_primary_that_became_a_replica_is_left(nursery: trio.Nursery) -> None:
    """The health check of one connection ends all of them."""
    streams = MemoryStreams(nursery, ok)
    connector = RedisConnector(tcp=streams, role="primary")
    first, second = [await connector.connect(BACKEND) for _ in range(2)]
    streams.answer = replica
    assert not await connector.is_valid(first)
    with pytest.raises(ConnectionError, match="it is a replica now"):
        connector.is_broken(second)


async def test_cleaning_costs_nothing_where_nothing_is_left(nursery: trio.Nursery) -> None:
    """A connection is cleaned only if a claim has left something on it."""
    streams = MemoryStreams(nursery, ok)
    connector = RedisConnector(tcp=streams)
    conn = await connector.connect(BACKEND)
    streams.commands.clear()
    assert not connector.needs_recycle(conn)
    await connector.on_recycle(conn)
    assert not streams.commands
    await conn.execute("WATCH", "a")
    assert connector.needs_recycle(conn)
    await connector.on_recycle(conn)
    assert words(streams) == ["WATCH a", "RESET"]
    assert not connector.needs_recycle(conn)


async def test_what_may_be_lent_again(nursery: trio.Nursery) -> None:
    """A claim that ended by an exception of the user's leaves a good connection."""
    connector = RedisConnector(tcp=MemoryStreams(nursery, ok))
    conn = await connector.connect(BACKEND)
    assert connector.should_recycle(conn, ValueError())
    await conn.execute("SUBSCRIBE", "a")
    assert not connector.should_recycle(conn, None)


async def test_unread_bytes_are_found(nursery: trio.Nursery) -> None:
    """Something that nobody has asked for makes an idle connection broken."""
    streams = MemoryStreams(nursery, lambda command: ok(command) * (1 + (command[0] == b"SET")))
    connector = RedisConnector(tcp=streams)
    conn = await connector.connect(BACKEND)
    await conn.execute("SET", "a", 1)
    with pytest.raises(MisusedConnectionError, match="unread"):
        connector.is_broken(conn)


async def test_a_connection_in_the_middle_of_an_exchange_is_not_read(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    """A reply that has arrived for a cancelled command is no fault."""
    streams = MemoryStreams(nursery, lambda command: b"" if command[0] == b"GET" else ok(command))
    connector = RedisConnector(tcp=streams)
    conn = await connector.connect(BACKEND)
    as_any(streams).is_broken = lambda stream: True
    with trio.move_on_after(1):
        await conn.execute("GET", "a")
    assert not connector.is_broken(conn)
    assert connector.should_recycle(conn, None)
    assert connector.needs_recycle(conn)


def test_errors_of_commands_are_no_failures_of_the_backend() -> None:
    """Only a lost connection, or an error about the server itself, counts against the backend."""
    connector, conn = RedisConnector(), as_any(None)
    assert not connector.is_failure(conn, RedisError("WRONGTYPE"))
    assert connector.is_failure(conn, RedisError("LOADING"))
    assert connector.is_failure(conn, ConnectionResetError())
    assert not connector.is_failure(conn, ValueError())


async def test_the_descriptor_is_that_of_the_stream(nursery: trio.Nursery) -> None:
    """`fileno` returns the descriptor that the connector of the streams returns."""
    streams = MemoryStreams(nursery, ok)
    streams.descriptor = 4711
    connector = RedisConnector(tcp=streams)
    assert connector.fileno(await connector.connect(BACKEND)) == 4711
