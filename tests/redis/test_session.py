"""The bookkeeping of what commands leave on a connection."""

from __future__ import annotations

import pytest

from qorb_trio.redis import RedisError
from qorb_trio.redis._session import Command, Session, may_block


def after(*commands: Command, protocol: int = 2, reply: object = b"OK") -> Session:
    """Return the session after some commands, all with one reply."""
    session = Session(protocol)
    for command in commands:
        name = session.begin(command)
        if name is not None:
            session.end(name, reply)
    return session


@pytest.mark.parametrize(
    "command",
    [
        ("GET", "a"),
        (b"set", b"a", 1),
        ("EVAL", "return 1", 0),
        ("CLIENT", "ID"),
        ("client", "list"),
        ("SCRIPT", "LOAD", "return 1"),
        ("BLPOP", "a", 1),
        (7,),
    ],
)
def test_most_commands_leave_nothing(command: Command) -> None:
    """Reading, writing and asking leave nothing behind."""
    session = after(command)
    assert (session.needs_reset, session.must_close, session.receives) == (False, False, False)


@pytest.mark.parametrize(
    "command",
    [
        ("SELECT", 1),
        ("select", 1),
        (b"Auth", b"secret"),
        (memoryview(b"SELECT"), 1),
        ("HELLO", 3),
        ("CLIENT", "SETNAME", "me"),
        ("MULTI",),
        ("WATCH", "a"),
        ("READONLY",),
        ("RESET",),
    ],
)
def test_what_outlives_a_claim_needs_a_reset(command: Command) -> None:
    """A command that changes the connection's state marks it, however it is written."""
    session = after(command)
    assert session.needs_reset
    assert not session.must_close


@pytest.mark.parametrize(
    ("commands", "clean"),
    [
        ([("MULTI",), ("EXEC",)], True),
        ([("WATCH", "a"), ("MULTI",), ("DISCARD",)], True),
        ([("WATCH", "a"), ("UNWATCH",)], True),
        ([("MULTI",), ("UNWATCH",)], False),
        ([("SELECT", 1), ("MULTI",), ("EXEC",)], False),
    ],
)
def test_a_transaction_that_ended_leaves_nothing(commands: list[Command], clean: bool) -> None:
    """``EXEC`` and ``DISCARD`` end a transaction and its watches, ``UNWATCH`` only the latter."""
    assert after(*commands).needs_reset is not clean


def test_a_command_that_failed_ends_nothing() -> None:
    """``EXEC`` without ``MULTI`` is refused by the server, and keys stay watched."""
    session = after(("WATCH", "a"))
    for name in ("EXEC", "DISCARD", "UNWATCH"):
        assert session.begin((name,)) == name
        session.end(name, RedisError("ERR without MULTI"))
    assert session.needs_reset


def test_an_aborted_transaction_has_ended() -> None:
    """The server discards a transaction when it answers ``EXECABORT``."""
    session = after(("MULTI",))
    session.end("EXEC", RedisError("EXECABORT Transaction discarded"))
    assert not session.needs_reset


@pytest.mark.parametrize(
    ("command", "protocol", "exclusive"),
    [
        (("SUBSCRIBE", "a"), 2, True),
        (("psubscribe", "a*"), 2, True),
        (("SUBSCRIBE", "a"), 3, False),
        (("MONITOR",), 2, True),
        (("MONITOR",), 3, True),
    ],
)
def test_subscriptions_close_the_connection(
    command: Command, protocol: int, exclusive: bool
) -> None:
    """A connection that receives messages is not lent again, and its replies may be hidden."""
    session = after(command, protocol=protocol)
    assert session.must_close
    assert session.receives
    assert session.is_exclusive is exclusive


@pytest.mark.parametrize(
    "command", [("QUIT",), ("SCRIPT", "DEBUG", "YES"), ("CLIENT", "NO-EVICT", "ON"), ("CLIENT",)]
)
def test_what_cannot_be_undone_closes_the_connection(command: Command) -> None:
    """A connection that has said goodbye is not lent again."""
    session = after(command)
    assert session.must_close
    assert not session.receives


def test_tracking_receives_messages() -> None:
    """The notices of ``CLIENT TRACKING`` are messages, and RESET ends them."""
    session = after(("CLIENT", "TRACKING", "ON"), protocol=3)
    assert session.receives
    assert session.needs_reset
    assert not session.must_close


def test_only_subscriptions_may_follow_a_subscription() -> None:
    """With protocol 2, a reply could not be told from a message."""
    session = after(("SUBSCRIBE", "a"))
    with pytest.raises(RuntimeError, match="GET cannot be sent"):
        session.begin(("get", "a"))
    assert session.begin(("UNSUBSCRIBE",)) == "UNSUBSCRIBE"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ((), "empty"),
        (("SYNC",), "SYNC is not supported"),
        (("psync", "?", "-1"), "PSYNC is not supported|PSYNC [?] is not"),
        (("CLIENT", "REPLY", "OFF"), "CLIENT REPLY is not supported"),
    ],
)
def test_commands_without_a_reply_are_refused(command: Command, words: str) -> None:
    """Each command must have one reply, or all that follow would be out of step."""
    with pytest.raises(ValueError, match=words):
        Session(2).begin(command)


def test_blocking_commands_are_known() -> None:
    """The reply to a command that waits for something may never come."""
    assert may_block(("blpop", "a", 0))
    assert not may_block(("LPOP", "a"))
