"""`RedisConnection`: commands and replies, whole and cut short."""

from __future__ import annotations

import pytest
import trio

from qorb_trio.redis import RedisError

from .kit import as_any, connected, is_dirty, ok, words


async def test_a_command_and_its_reply(nursery: trio.Nursery) -> None:
    """Words are text, bytes or numbers; the reply is the server's."""
    conn, streams = await connected(nursery)
    assert await conn.execute("SET", b"a", 1) == b"OK"
    assert await conn.execute("ECHO", 1.5) == b"1.5"
    assert words(streams) == ["SET a 1", "ECHO 1.5"]
    assert conn.protocol == 2
    assert not is_dirty(conn)


async def test_an_error_leaves_the_connection_fine(nursery: trio.Nursery) -> None:
    """The server's error is raised with its code, and the next exchange works."""

    def answer(command: list[bytes]) -> bytes:
        return b"-WRONGTYPE not a list\r\n" if command[0] == b"LPOP" else ok(command)

    conn, _ = await connected(nursery, answer)
    with pytest.raises(RedisError, match="not a list") as caught:
        await conn.execute("LPOP", "a")
    assert caught.value.code == "WRONGTYPE"
    assert await conn.execute("PING") == b"PONG"
    assert conn.is_reusable


async def test_words_that_cannot_be_sent(nursery: trio.Nursery) -> None:
    """A word of another type is a `TypeError`, and nothing is sent."""
    conn, streams = await connected(nursery)
    with pytest.raises(TypeError):
        await conn.execute("SET", "a", as_any(None))
    assert not streams.commands
    assert await conn.execute("PING") == b"PONG"


async def test_a_pipeline_answers_in_order(nursery: trio.Nursery) -> None:
    """Commands are sent at once, and each reply has its command's place."""
    conn, streams = await connected(nursery)
    assert await conn.pipeline(("ECHO", "a"), ["ECHO", "b"], ("PING",)) == [b"a", b"b", b"PONG"]
    assert await conn.pipeline() == []
    assert words(streams) == ["ECHO a", "ECHO b", "PING"]


async def test_errors_in_a_pipeline(nursery: trio.Nursery) -> None:
    """The first error is raised when all replies have been read, or each has its place."""

    def answer(command: list[bytes]) -> bytes:
        return b"-ERR %s\r\n" % command[1] if command[0] == b"FAIL" else ok(command)

    conn, _ = await connected(nursery, answer)
    commands = [("PING",), ("FAIL", "first"), ("FAIL", "second"), ("ECHO", "x")]
    with pytest.raises(RedisError, match="ERR first"):
        await conn.pipeline(*commands)
    replies = await conn.pipeline(*commands, return_errors=True)
    assert [str(reply) for reply in replies] == ["b'PONG'", "ERR first", "ERR second", "b'x'"]


async def test_a_transaction_in_a_pipeline_leaves_nothing(nursery: trio.Nursery) -> None:
    """The state that a pipeline leaves is known from its replies."""
    conn, _ = await connected(nursery)
    await conn.pipeline(("MULTI",), ("SET", "a", 1))
    assert is_dirty(conn)
    await conn.pipeline(("SET", "a", 1), ("EXEC",))
    assert not is_dirty(conn)


async def test_a_pipeline_takes_no_subscription(nursery: trio.Nursery) -> None:
    """SUBSCRIBE in a pipeline is refused, because its replies could not be counted."""
    conn, _ = await connected(nursery)
    with pytest.raises(ValueError, match="SUBSCRIBE cannot be part of a pipeline"):
        await conn.pipeline(("SUBSCRIBE", "a"))


async def test_cleaning_resets_and_greets_again(nursery: trio.Nursery) -> None:
    """RESET ends all that a command has altered, and the session begins anew."""
    conn, streams = await connected(nursery, password="secret", db=3)
    await conn.execute("SELECT", 1)
    assert is_dirty(conn)
    await conn.clean([("AUTH", "secret"), ("SELECT", 3)])
    assert words(streams) == ["SELECT 1", "RESET", "AUTH secret", "SELECT 3"]
    assert not is_dirty(conn)


async def test_a_reset_that_fails_is_raised(nursery: trio.Nursery) -> None:
    """A server that does not reset cannot give a clean connection."""

    def answer(command: list[bytes]) -> bytes:
        return b"-ERR unknown command\r\n" if command[0] == b"RESET" else ok(command)

    conn, _ = await connected(nursery, answer)
    await conn.execute("SELECT", 1)
    with pytest.raises(RedisError, match="unknown"):
        await conn.clean([])


async def test_a_cancelled_exchange_leaks_no_reply(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    """The reply to a cancelled command is dropped, in the same claim and by the cleaning."""
    conn, streams = await connected(nursery)
    streams.answer = lambda command: b""
    with trio.move_on_after(1):
        await conn.execute("ECHO", "cancelled")
    assert conn.is_reusable
    assert is_dirty(conn)
    streams.answer = lambda command: ok([b"ECHO", b"cancelled"]) + ok(command)
    assert await conn.execute("ECHO", "mine") == b"mine"
    assert not is_dirty(conn)
    streams.answer = lambda command: b""
    with trio.move_on_after(1):
        await conn.execute("ECHO", "again")
    nursery.start_soon(streams.peers[0].send_all, ok([b"ECHO", b"again"]))
    await conn.clean([])
    assert not is_dirty(conn)


async def test_a_cancellation_before_anything_is_sent_costs_nothing(nursery: trio.Nursery) -> None:
    """An exchange that has not begun leaves the connection as it was."""
    conn, streams = await connected(nursery)
    with trio.CancelScope() as scope:
        scope.cancel()
        await conn.execute("PING")
    assert not streams.commands
    assert conn.is_reusable
    assert not is_dirty(conn)


async def test_a_blocking_command_that_is_cancelled_closes_the_connection(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    """The connection is closed, because the reply of a blocking command may never come."""
    conn, streams = await connected(nursery)
    streams.answer = lambda command: b""
    with trio.move_on_after(1):
        await conn.execute("BLPOP", "queue", 0)
    assert not conn.is_reusable
    with pytest.raises(ConnectionError, match="a blocking command was cut off"):
        await conn.execute("PING")


async def test_a_request_that_was_cut_closes_the_connection(
    autojump_clock: trio.abc.Clock, nursery: trio.Nursery
) -> None:
    """A request that was sent in part cannot be completed."""
    conn, _ = await connected(nursery)

    async def stall(data: bytes) -> None:
        await trio.sleep_forever()

    as_any(conn.stream).send_all = stall
    with trio.move_on_after(1):
        await conn.execute("SET", "a", "b" * 1000)
    assert not conn.is_reusable
    with pytest.raises(ConnectionError, match="cut off while it was being sent"):
        await conn.execute("PING")


async def test_a_server_that_hangs_up(nursery: trio.Nursery) -> None:
    """The end of the stream is a `ConnectionError`, then and in all later exchanges."""
    conn, streams = await connected(nursery)
    await streams.peers[0].aclose()
    for _ in range(2):
        with pytest.raises(ConnectionError, match="lost"):
            await conn.execute("PING")
    assert not conn.is_reusable


async def test_a_server_that_speaks_another_protocol(nursery: trio.Nursery) -> None:
    """Bytes that are no reply make the connection useless."""
    conn, _ = await connected(
        nursery, lambda command: b"HTTP/1.1 400" if command[0] == b"GET" else ok(command)
    )
    with pytest.raises(ConnectionError, match="Protocol error"):
        await conn.execute("GET", "/")
    assert not conn.is_reusable


async def test_one_task_at_a_time(nursery: trio.Nursery) -> None:
    """A second task is refused, and the first gets its reply."""
    conn, streams = await connected(nursery)
    streams.answer = lambda command: b""
    replies = []

    async def first() -> None:
        replies.append(await conn.execute("PING"))

    nursery.start_soon(first)
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(trio.BusyResourceError):
        await conn.execute("PING")
    await streams.peers[0].send_all(b"+PONG\r\n")
    await trio.testing.wait_all_tasks_blocked()
    assert replies == [b"PONG"]


# ------------------------------------------------------------------------- messages

MESSAGE = b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$5\r\nhello\r\n"


async def test_messages_of_a_subscription(nursery: trio.Nursery) -> None:
    """Confirmations and messages come from `receive`, and the connection is closed."""
    conn, _ = await connected(nursery, lambda c: MESSAGE if c[0] == b"SUBSCRIBE" else ok(c))
    assert await conn.execute("SUBSCRIBE", "a") is None
    assert await conn.receive() == [b"message", b"a", b"hello"]
    assert not conn.is_reusable
    with pytest.raises(RuntimeError, match="GET cannot be sent"):
        await conn.execute("GET", "a")


async def test_messages_between_replies(nursery: trio.Nursery) -> None:
    """With protocol 3, messages that arrive during an exchange wait for `receive`."""
    push = b">" + MESSAGE[1:]
    conn, _ = await connected(
        nursery, lambda c: push + (b"" if c[0] == b"SUBSCRIBE" else ok(c)), protocol=3
    )
    assert is_dirty(conn)  # of the greeting
    assert conn.protocol == 3
    await conn.execute("SUBSCRIBE", "a")
    assert await conn.execute("PING") == b"PONG"
    for _ in range(4):
        assert await conn.receive() == [b"message", b"a", b"hello"]


async def test_a_message_after_a_cancelled_exchange(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    """`receive` drops the replies that are owed, and keeps the messages between them."""
    conn, streams = await connected(nursery, protocol=3)
    streams.answer = lambda command: b""
    await conn.execute("SUBSCRIBE", "a")
    with trio.move_on_after(1):
        await conn.execute("PING")
    push = b">" + MESSAGE[1:]
    nursery.start_soon(streams.peers[0].send_all, push + b"+PONG\r\n" + push)
    assert await conn.receive() == [b"message", b"a", b"hello"]
    assert await conn.receive() == [b"message", b"a", b"hello"]
    assert not is_dirty(conn)


async def test_what_is_not_subscribed_cannot_be_received(nursery: trio.Nursery) -> None:
    """`receive` without a subscription raises at once."""
    conn, _ = await connected(nursery)
    with pytest.raises(RuntimeError, match="nothing is subscribed"):
        await conn.receive()


async def test_a_subscription_whose_server_hangs_up(nursery: trio.Nursery) -> None:
    """The end of the stream is a `ConnectionError` for `receive` too."""
    conn, streams = await connected(nursery)
    streams.answer = lambda command: b""
    await conn.execute("SUBSCRIBE", "a")
    await streams.peers[0].aclose()
    with pytest.raises(ConnectionError, match="lost"):
        await conn.receive()


async def test_tracking_notices_end_with_the_claim(nursery: trio.Nursery) -> None:
    """RESET ends ``CLIENT TRACKING``, and notices that were not received are forgotten."""
    push = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n"
    conn, streams = await connected(nursery, protocol=3)
    await conn.execute("CLIENT", "TRACKING", "ON")
    streams.answer = lambda c: push + ok(c)
    await conn.execute("SET", "a", 1)
    assert is_dirty(conn)
    await conn.clean([("HELLO", 3)])
    assert not is_dirty(conn)
