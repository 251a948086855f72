"""Connections that grow old in odd moments, and limits that change while a pool runs."""

from __future__ import annotations

import logging
import math
import random

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qorb_trio import Backend, ClaimTimeoutError, Policy, SetConfig

from ..harness import policy_of
from .ageing import Conn, Dated, Retired, a_pool


class Checked(Dated):
    """Checks for as long as it is told, and counts the checks."""

    def __init__(self, seconds: float = 0) -> None:
        super().__init__()
        self.seconds = seconds
        self.checks = 0

    async def is_valid(self, conn: Conn) -> bool:
        """Check."""
        self.checks += 1
        await trio.sleep(self.seconds)
        return True


# At the end of a life.


async def test_an_expired_spare_is_not_lent_before_the_timer_has_seen_it(
    autojump_clock: MockClock,
) -> None:
    """A claim in the instant of the expiry, before any other task runs, does not get it."""
    async with a_pool(policy_of(max_slots=2, spares_wanted=1, max_lifetime=100), Dated()) as pool:
        autojump_clock.jump(200)
        with pytest.raises(trio.WouldBlock):
            pool.claim_nowait()


async def test_a_claim_with_a_key_gets_no_expired_spare(autojump_clock: MockClock) -> None:
    """Such a claim, which takes the longer way, waits for a new connection instead."""
    async with a_pool(policy_of(max_slots=2, spares_wanted=1, max_lifetime=100), Dated()) as pool:
        async with pool.claim() as first:
            pass
        autojump_clock.jump(200)
        async with pool.claim(key="user 7") as second:
            assert second is not first


async def test_a_claim_that_ends_late_leaves_no_expired_spare(autojump_clock: MockClock) -> None:
    """While its backend refuses, an expired connection is closed as it comes back."""
    connector = Dated()
    policy = policy_of(max_slots=2, spares_wanted=1, max_lifetime=100)
    async with a_pool(policy, connector) as pool:
        await trio.sleep(1)
        connector.refuses = True
        async with pool.claim():
            await trio.sleep(150)
        await wait_all_tasks_blocked()
        assert connector.open == []


async def test_a_refusing_backend_does_not_exceed_its_uses(autojump_clock: MockClock) -> None:
    """While its backend refuses, a connection serves `max_uses` claims and no more."""
    connector = Dated()
    async with a_pool(policy_of(max_slots=4, spares_wanted=1, max_uses=4), connector) as pool:
        connector.refuses = True
        with pytest.raises(ClaimTimeoutError):
            for _ in range(100):
                async with pool.claim(timeout=5) as conn:
                    conn.uses += 1
                await trio.sleep(1)
        assert [conn.uses for conn in connector.conns] == [4]


@pytest.mark.parametrize("options", [{}, {"key": "k"}, {"avoid": [Backend(("b.test", 1))]}])
async def test_each_way_to_a_connection_counts_its_uses(
    autojump_clock: MockClock, options: dict[str, object]
) -> None:
    """Claims that find a spare, with and without options, count as uses."""
    connector = Dated()
    async with a_pool(policy_of(max_slots=1, spares_wanted=1, max_uses=20), connector) as pool:
        for _ in range(100):
            async with pool.claim(**options) as conn:  # type: ignore[arg-type]
                conn.uses += 1
        assert max(conn.uses for conn in connector.conns) <= 20


class Asked(Dated):
    """Is asked about every spare, so that claims take the long way."""

    broken: Conn | None = None

    def is_broken(self, conn: Conn) -> bool:
        """Say if it is the one that is broken."""
        return conn is self.broken


async def test_a_broken_spare_with_a_long_life_is_not_lent(autojump_clock: MockClock) -> None:
    """Limits of its life do not keep a spare from being asked whether it is broken."""
    connector = Asked()
    policy = policy_of(max_slots=2, spares_wanted=1, max_lifetime=3600, max_uses=1000)
    async with a_pool(policy, connector) as pool:
        connector.broken = connector.conns[0]
        async with pool.claim() as conn:
            assert conn is not connector.broken


@pytest.mark.parametrize(
    "numbers",
    [
        {"max_lifetime": 30},
        {"max_uses": 7},
        {"idle_timeout": 4},
        {"max_lifetime": 40, "max_uses": 20, "idle_timeout": 6},
    ],
    ids="+".join,
)
async def test_the_short_way_ages_like_the_long_one(
    autojump_clock: MockClock, numbers: dict[str, float]
) -> None:
    """Connections have the same life whether or not claims have to look at them otherwise."""
    short, long = [await a_life(connector, numbers) for connector in (Dated(), Asked())]
    assert short == long
    assert len(short) > 5


async def a_life(connector: Dated, numbers: dict[str, float]) -> list[tuple[float, float, int]]:
    """The dates and uses of the connections of a pool that is claimed at odd times."""
    chance = random.Random(1)

    def pause() -> float:
        # No two things happen at the same time, when their order would be by chance.
        return chance.choice([0, 0.1, 0.3, 5]) * chance.uniform(0.9, 1.1)

    policy = policy_of(max_slots=3, spares_wanted=1, health_interval=math.inf, **numbers)
    async with a_pool(policy, connector, rng=random.Random(2)) as pool:
        began = trio.current_time()
        for _ in range(300):
            async with pool.claim() as conn:
                conn.uses += 1
                await trio.sleep(pause())
            await trio.sleep(pause())
    return [
        (round(it.born - began, 6), round(it.closed - began, 6), it.uses) for it in connector.conns
    ]


async def test_connections_that_are_handed_on_count_their_uses(autojump_clock: MockClock) -> None:
    """Claims that wait in line count as uses like any other."""
    connector = Dated()
    async with a_pool(policy_of(max_slots=1, spares_wanted=1, max_uses=20), connector) as pool:

        async def claim() -> None:
            for _ in range(30):
                async with pool.claim() as conn:
                    conn.uses += 1
                    await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(claim)
        assert max(conn.uses for conn in connector.conns) <= 20


async def test_a_connection_that_expires_as_it_is_checked(autojump_clock: MockClock) -> None:
    """A claimant that waits for a check does not get a connection that has expired meanwhile."""
    connector = Checked(seconds=2)
    policy = policy_of(max_slots=2, spares_wanted=1, max_lifetime=10)
    async with a_pool(policy, connector) as pool:
        connector.refuses = True  # or it would be closed as it comes back
        await trio.sleep_until(9)
        async with pool.claim():
            pass
        with pytest.raises(ClaimTimeoutError):
            async with pool.claim(timeout=30):
                raise AssertionError("it is too old")


async def test_a_due_connection_that_was_cleaned_is_lent_last(autojump_clock: MockClock) -> None:
    """While its replacement cannot be had, a due connection goes behind the others."""
    connector = Checked()
    policy = policy_of(max_slots=8, spares_wanted=2, max_lifetime=100)
    async with a_pool(policy, connector) as pool:
        await pool.wait_ready(2)
        connector.refuses = True
        await trio.sleep(40)
        connector.refuses = False
        claims = [await pool.acquire() for _ in range(4)]
        await trio.sleep(1)  # two spares more, which are young as two of the others
        connector.refuses = True
        claims += [await pool.acquire() for _ in range(2)]
        await trio.sleep(1)  # a dial has failed
        for claim in claims:
            claim.release()
        while pool.stats().backends["a.test:1"].retiring < 2:  # noqa: ASYNC110 - no event
            await trio.sleep(0.5)
        claims = [await pool.acquire() for _ in connector.open]
        assert [claim.connection.born < 1 for claim in claims[-3:]] == [False, True, True]
        for claim in claims:
            claim.release()  # the old ones come back last
            await wait_all_tasks_blocked()
        async with pool.claim() as conn:
            assert conn.born > 1


async def test_a_spare_that_idled_for_too_long_is_closed_as_it_comes_back(
    autojump_clock: MockClock,
) -> None:
    """A claim on a due connection changes nothing: it is closed, its replacement there or not."""
    connector = Dated()
    policy = policy_of(max_slots=4, spares_wanted=1, idle_timeout=10)
    async with a_pool(policy, connector) as pool:
        await trio.sleep_until(10.07)  # due, and its replacement is being dialled
        assert pool.stats().backends["a.test:1"].retiring == 1
        [old] = connector.open
        with pool.claim_nowait() as conn:
            assert conn is old
        await wait_all_tasks_blocked()
        assert old.closed < math.inf


@pytest.mark.parametrize("spares", [0, 1])
async def test_a_claim_at_the_end_of_an_idle_timeout_puts_it_off(
    autojump_clock: MockClock, spares: int
) -> None:
    """A connection that is claimed when its idle timeout ends is idle anew from its return."""
    connector, retired = Dated(), Retired()
    policy = policy_of(
        max_slots=1, spares_wanted=spares, idle_timeout=10, rebalance_interval=math.inf
    )
    async with a_pool(policy, connector, retired) as pool:
        async with pool.claim() as conn:
            await trio.sleep(25)
        await trio.sleep(9.9)
        assert conn in connector.open
        assert not retired.reasons
        await trio.sleep(0.2)
        assert conn not in connector.open
        assert retired.reasons == ["idle"]


async def test_an_idle_timeout_counts_from_its_start(autojump_clock: MockClock) -> None:
    """A connection with a limited life is not idle since before `idle_timeout` was set."""
    connector, retired = Dated(), Retired()
    numbers = {"max_slots": 1, "spares_wanted": 1, "max_lifetime": 10_000}
    async with a_pool(policy_of(**numbers), connector, retired) as pool:
        await trio.sleep(100)
        pool.reconfigure(policy_of(**numbers, idle_timeout=10))
        await trio.sleep(9)
        assert not retired.reasons
        pool.reconfigure(policy_of(**numbers, idle_timeout=5))
        assert retired.reasons == ["idle"]


# Limits that change.


async def test_a_dial_that_is_recycled_keeps_its_other_limits(autojump_clock: MockClock) -> None:
    """A recycling over an hour does not put off the end of a lifetime."""
    connector = Dated()
    policy = policy_of(max_slots=2, spares_wanted=1, max_lifetime=100)
    async with a_pool(policy, connector) as pool:
        async with pool.claim():
            await trio.sleep(0.02)  # another is being dialled
            pool.recycle(over=3600)
            await trio.sleep(1)
        await trio.sleep(110)
        assert all(trio.current_time() - conn.born <= 100 for conn in connector.open)


async def test_a_recycling_does_not_wait_for_the_end_of_a_lifetime(
    autojump_clock: MockClock,
) -> None:
    """Connections with hours to live are replaced within the time that `recycle` gives."""
    connector = Dated()
    policy = policy_of(max_slots=4, spares_wanted=2, max_lifetime=10_000)
    async with a_pool(policy, connector) as pool:
        await pool.wait_ready(2)
        old = list(connector.open)
        pool.recycle(over=10)
        await trio.sleep(12)
        assert not set(old) & set(connector.open)


async def test_a_shorter_lifetime_holds_for_what_exists(autojump_clock: MockClock) -> None:
    """Connections that are older than the new lifetime are replaced at once."""
    connector = Dated()
    policy = policy_of(max_slots=4, spares_wanted=2, max_lifetime=10_000)
    async with a_pool(policy, connector) as pool:
        await trio.sleep(200)
        old = list(connector.open)
        pool.reconfigure(policy_of(max_slots=4, spares_wanted=2, max_lifetime=100))
        await trio.sleep(1)
        assert not set(old) & set(connector.open)


async def test_an_idle_timeout_holds_for_the_present_spares(autojump_clock: MockClock) -> None:
    """Spares that nobody claims are replaced when they have been idle since the change."""
    connector, retired = Dated(), Retired()
    async with a_pool(policy_of(max_slots=4, spares_wanted=2), connector, retired) as pool:
        await pool.wait_ready(2)
        pool.reconfigure(policy_of(max_slots=4, spares_wanted=2, idle_timeout=10))
        await trio.sleep(12)
        assert retired.reasons == ["idle", "idle"]


async def test_a_health_interval_holds_at_once(autojump_clock: MockClock) -> None:
    """Spares are checked after the new interval, although nothing else wakes the pool."""
    connector = Checked()
    policy = policy_of(max_slots=2, spares_wanted=1, health_interval=math.inf)
    async with a_pool(policy, connector) as pool:
        await trio.sleep(100)
        assert connector.checks == 0
        pool.reconfigure(policy_of(max_slots=2, spares_wanted=1, health_interval=10))
        await trio.sleep(20)
        assert connector.checks >= 1


async def test_a_rebalance_interval_holds_at_once(autojump_clock: MockClock) -> None:
    """Surplus is closed after the new interval, and not at the end of the old one."""
    connector = Dated()
    policy = policy_of(max_slots=8, spares_wanted=1, rebalance_interval=100_000)
    async with a_pool(policy, connector) as pool:
        claims = [await pool.acquire() for _ in range(6)]
        for claim in claims:
            claim.release()
        pool.reconfigure(attrs.evolve(policy, rebalance_interval=10))
        await trio.sleep(25)
        assert len(connector.open) == 1


async def test_a_shorter_back_off_holds_for_known_backends(autojump_clock: MockClock) -> None:
    """A backend that fails is tried at the new pace after the delay that is under way."""
    connector = Checked()
    policy = policy_of(max_slots=1, spares_wanted=1, max_connection_backoff=20, max_uses=1)
    async with a_pool(policy, connector) as pool:
        connector.refuses = True
        async with pool.claim():
            pass
        await trio.sleep(200)
        config = attrs.evolve(policy.set_config, max_connection_backoff=1)
        pool.reconfigure(attrs.evolve(policy, set_config=config))
        await trio.sleep(20)
        before = pool.stats().backends["a.test:1"].failures
        await trio.sleep(20)
        assert pool.stats().backends["a.test:1"].failures >= before + 15


async def test_a_leak_warning_holds_for_present_claims(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A claim that is held is warned of after the time that is set meanwhile."""
    policy = policy_of(max_slots=1, spares_wanted=1)
    async with a_pool(policy, Dated()) as pool, pool.claim(label="the leak"):
        await trio.sleep(1)
        pool.reconfigure(attrs.evolve(policy, leak_warning_after=5))
        await trio.sleep(10)
        warnings = [it for it in caplog.records if it.levelno == logging.WARNING]
        assert any("the leak" in it.getMessage() for it in warnings)


async def test_a_dial_that_waits_for_its_back_off_is_not_recycled(
    autojump_clock: MockClock,
) -> None:
    """`recycle` leaves a connection alone whose dial has not begun yet."""
    connector, retired = Dated(), Retired()
    config = SetConfig(min_connection_backoff=10, max_connection_backoff=10)
    policy = Policy(max_slots=1, spares_wanted=1, set_config=config)
    async with a_pool(policy, connector, retired) as pool:
        connector.refuses = True
        (await pool.acquire()).discard()
        await trio.sleep(1)
        assert pool.stats().backends["a.test:1"].connecting == 1
        pool.recycle()
        connector.refuses = False
        await trio.sleep(30)
        assert len(connector.open) == 1
        assert retired.reasons == []
