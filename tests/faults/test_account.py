"""The account by itself: that it sees what it is for."""

from __future__ import annotations

from typing import cast

import pytest
import trio

from qorb_trio import Backend

from .account import Account
from .echo import DamagedError, Echo, WrongReplyError, frame, number_of

BACKEND = Backend(("a.test", 80))


class Replies:
    """A stream on which these replies come."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = list(chunks)
        self.sent = b""
        self.parrot = False
        """True if the stream sends each byte back, one at a time."""

    async def send_all(self, data: bytes) -> None:
        self.sent += data

    async def receive_some(self, size: int) -> bytes:
        if not self.parrot:
            return self.chunks.pop(0)
        data, self.sent = self.sent[:1], self.sent[1:]
        return data


def connection(*chunks: bytes) -> Echo:
    return Echo(cast("trio.SocketStream", Replies(*chunks)), BACKEND)


def opened(account: Account) -> Echo:
    """A connection that is in the account."""
    conn = connection()
    account.begin(BACKEND)
    account.open(conn)
    return conn


def test_all_is_well() -> None:
    """Opened, held by one after the other, closed once: nothing to complain of."""
    account = Account(max_slots=1, max_count=1)
    for _ in range(2):
        conn = opened(account)
        for who in "ab":
            with account.holding(conn, who):
                pass
        account.begin_close(conn)
        account.close(conn)
    account.begin(BACKEND)
    account.give_up(BACKEND)
    assert not account.at_the_end()
    assert (account.dials, account.opened, account.closed) == (3, 2, 2)


def test_never_closed() -> None:
    """A connection that is open at the end is leaked."""
    account = Account()
    opened(account)
    assert account.at_the_end() == ["a connection to a.test:80 was never closed"]


def test_never_ended() -> None:
    """A dial that has never ended is a violation."""
    account = Account()
    account.begin(BACKEND)
    [wrong] = account.at_the_end()
    assert wrong.startswith("a dial has never ended")


def test_closed_twice() -> None:
    """A connection is closed once."""
    account = Account()
    conn = opened(account)
    for _ in range(2):
        account.begin_close(conn)
        account.close(conn)
    assert account.at_the_end() == ["a connection to a.test:80 was closed twice"]
    assert account.closed == 1


def test_two_holders() -> None:
    """A connection has one holder, and none when it is closed."""
    account = Account()
    conn = opened(account)
    with account.holding(conn, "a"), account.holding(conn, "b"):
        account.begin_close(conn)
        account.close(conn)
    with account.holding(conn, "c"):
        pass
    assert account.at_the_end() == [
        "b is given a connection of a",
        "c is given a connection of nobody, as it is closed",
    ]


def test_too_many() -> None:
    """Neither cap is passed, by dials either."""
    account = Account(max_slots=2, max_count=1)
    account.begin(BACKEND)
    account.begin(BACKEND)
    account.begin(Backend(("b.test", 80)))
    assert account.violations == ["2 connections to a.test:80", "3 connections, 2 allowed"]


async def test_a_wrong_reply() -> None:
    """The reply to another request is not taken, and goes into the account."""
    account = Account()
    conn = connection(frame(0))
    account.begin(BACKEND)
    account.open(conn)
    with pytest.raises(WrongReplyError):
        await conn.ask()
    account.begin_close(conn)
    account.close(conn)
    [wrong] = account.at_the_end()
    assert wrong.startswith("wrong reply: 0 instead of ")


async def test_a_reply_in_pieces() -> None:
    """A reply may come in pieces; without the last one the server has hung up."""
    with pytest.raises(ConnectionError, match="hung up"):
        await connection(b"12345", b"").ask()
    conn = connection()
    replies = cast("Replies", conn.stream)
    replies.parrot = True
    await conn.ask()
    assert not replies.sent


def test_damaged() -> None:
    """A frame with one changed bit is rejected."""
    assert number_of(frame(7)) == 7
    for place in range(len(frame(7))):
        data = bytearray(frame(7))
        data[place] ^= 0x10
        with pytest.raises(DamagedError):
            number_of(bytes(data))
