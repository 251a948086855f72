"""`Returns`: what becomes of a connection whose `needs_recycle` raises."""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock

from qorb_trio import Policy, open_pool
from qorb_trio.testing import FakeConnection, FakeConnector, ManualResolver


class Undecided(FakeConnector):
    """Cannot say whether a connection has to be cleaned."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error
        self.cleaned: list[FakeConnection] = []

    def needs_recycle(self, conn: FakeConnection) -> bool:
        """Raise."""
        raise self.error

    async def on_recycle(self, conn: FakeConnection) -> None:
        """Note that a connection is cleaned."""
        self.cleaned.append(conn)


async def test_a_connection_is_cleaned_if_nobody_can_tell(
    autojump_clock: MockClock, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """An error in `needs_recycle` is logged, and the connection is cleaned and kept."""
    connector = Undecided(ValueError("no idea"))
    policy = Policy(max_slots=1, spares_wanted=1)
    resolver = ManualResolver(["a.test:80"])
    async with open_pool(nursery, resolver, connector, policy=policy) as pool:
        with caplog.at_level(logging.WARNING, "qorb_trio"):
            async with pool.claim() as first:
                pass
        await trio.sleep(1)
        assert connector.cleaned == [first]
        assert "needs_recycle" in caplog.text
        assert "no idea" in caplog.text
        async with pool.claim() as second:
            assert second is first


async def test_a_connection_is_closed_by_an_interrupt(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """A `needs_recycle` that raises no `Exception` ends the claim with that, and loses nothing."""
    connector = Undecided(KeyboardInterrupt())
    policy = Policy(max_slots=1, spares_wanted=1)
    resolver = ManualResolver(["a.test:80"])
    async with open_pool(nursery, resolver, connector, policy=policy) as pool:
        claim = await pool.acquire()
        connection = claim.connection
        with pytest.raises(KeyboardInterrupt):
            claim.release()
        await trio.sleep(1)
        assert connector.cleaned == []
        assert not connection.is_open
        assert pool.stats().backends["a.test:80"].unclaimed == 1
    connector.assert_all_closed()
