"""Defaults, representations and refusals that no larger test comes by."""

from __future__ import annotations

import gc

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qorb_trio import Backend, Claim, Connector, Instrument, Policy, Pool, SetConfig, open_pool
from qorb_trio.testing import FakeConnector, ManualResolver


def test_a_backend_shows_what_is_special() -> None:
    """Priority, weight and target are shown where they are not the defaults."""
    assert repr(Backend(("a.test", 1))) == "Backend(('a.test', 1), name='a.test:1')"
    special = Backend("/run/a.sock", name="a", priority=2, weight=3, target="b")
    assert repr(special) == "Backend('/run/a.sock', name='a', priority=2, weight=3, target='b')"


def test_a_weight_has_a_limit() -> None:
    """A weight above the largest one is refused, and the largest one is not."""
    assert Backend(("a.test", 1), weight=2**32).weight == 2**32
    with pytest.raises(ValueError, match=r"weight must be at most 2\*\*32"):
        Backend(("a.test", 1), weight=2**32 + 1)


class Bare(Connector[object]):
    """Nothing but ``connect``, and connections that cannot be closed."""

    async def connect(self, backend: Backend) -> object:
        """Return a new object."""
        return object()


async def test_the_defaults_of_a_connector() -> None:
    """A connector that overrides nothing finds all well, and has nothing to close."""
    connector = Bare()
    conn = object()
    assert await connector.is_valid(conn)
    assert not connector.is_broken(conn)
    await connector.on_acquire(conn)
    await connector.on_recycle(conn)
    await connector.disconnect(conn)
    assert connector.should_recycle(conn, None)
    assert not connector.should_recycle(conn, ValueError())
    assert connector.needs_recycle(conn)
    assert connector.fileno(conn) is None


class Refusing(Bare):
    """Connects to nothing, and counts."""

    dials = 0

    async def connect(self, backend: Backend) -> object:
        """Count, and fail."""
        self.dials += 1
        raise OSError("refused")


async def test_a_large_plan_ends_where_it_is_overtaken(mock_clock: MockClock) -> None:
    """A backend that fails while its slots are opened in slices is dialled no more."""
    connector = Refusing()
    policy = Policy(max_slots=1000, spares_wanted=1000, set_config=SetConfig(max_count=1000))
    async with trio.open_nursery() as nursery:
        async with open_pool(nursery, ManualResolver(["a.test:1"]), connector, policy=policy):
            await wait_all_tasks_blocked()
            assert connector.dials == 1


async def test_a_plain_claim_that_waits_is_seen_by_who_comes_meanwhile(
    autojump_clock: MockClock,
) -> None:
    """An instrument that is added while a claim waits hears of its grant."""
    granted: list[int] = []

    class Watching(Instrument):
        def claim_done(self, pool: str, claim_id: int, slot_id: int) -> None:
            granted.append(claim_id)

    async with trio.open_nursery() as nursery:
        resolver = ManualResolver(["a.test:1"])
        policy = Policy(max_slots=1)
        async with open_pool(nursery, resolver, Bare(), policy=policy) as pool:
            claim = await pool.acquire()

            async def waiter() -> None:
                async with pool.claim():
                    pass

            nursery.start_soon(waiter)
            await wait_all_tasks_blocked()
            pool.add_instrument(Watching())
            claim.release()
            await wait_all_tasks_blocked()
            assert len(granted) == 1


class Validating(Bare):
    """Checks its connections, but cannot tell at once whether one is broken."""

    checks = 0

    async def is_valid(self, conn: object) -> bool:
        """Count, and find it well."""
        self.checks += 1
        return True


async def test_a_health_check_without_is_broken(autojump_clock: MockClock) -> None:
    """``is_valid`` alone is enough for health checks."""
    connector = Validating()
    policy = Policy(spares_wanted=1, set_config=SetConfig(health_interval=5))
    async with trio.open_nursery() as nursery:
        resolver = ManualResolver(["a.test:1"])
        async with open_pool(nursery, resolver, connector, policy=policy):
            await trio.sleep(11)
    assert connector.checks == 2


async def test_a_pool_is_opened_once_and_made_by_nobody_else(nursery: trio.Nursery) -> None:
    """A manager cannot be entered twice, and `Pool` has no public constructor."""
    manager = open_pool(nursery, ManualResolver(), FakeConnector(), name="db")
    async with manager as pool:
        assert repr(pool) == "<qorb_trio.Pool 'db'>"
        with pytest.raises(RuntimeError, match="opened only once"):
            await manager.__aenter__()
        with pytest.raises(ValueError, match="at most max_slots"):
            await pool.wait_ready(17)
    with pytest.raises(TypeError, match="no public constructor"):
        Pool()  # type: ignore[call-arg]


def test_a_claim_that_was_never_made() -> None:
    """With wrong arguments there is no claim, and nothing to be said when it is collected."""
    with pytest.raises(TypeError):
        Claim()  # type: ignore[call-arg]  # that is the point
    gc.collect()


async def test_a_claim_before_its_grant_and_after_the_end(autojump_clock: MockClock) -> None:
    """A claim that is not granted has nothing; one that outlives the pool has lost it."""
    async with trio.open_nursery() as nursery:
        resolver = ManualResolver(["a.test:1"])
        policy = Policy(drain_timeout=0)
        async with open_pool(nursery, resolver, FakeConnector(), policy=policy) as pool:
            claim = pool.claim()
            with pytest.raises(RuntimeError, match="not been granted"):
                claim.release()
            with pytest.raises(RuntimeError, match="not been granted"):
                _ = claim.backend
            held = await pool.acquire()
    with pytest.raises(RuntimeError, match="the pool has ended"):
        _ = held.connection
    held.release()


async def test_a_new_weight_for_a_backend_without_spares(autojump_clock: MockClock) -> None:
    """A change of weight is taken over also where no spare is on the shelf."""
    connector = FakeConnector()
    connector.fail(None, OSError("refused"))
    resolver = ManualResolver(["a.test:1"])
    async with trio.open_nursery() as nursery:
        async with open_pool(nursery, resolver, connector) as pool:
            await wait_all_tasks_blocked()
            resolver.set([Backend(("a.test", 1), weight=5)])
            await wait_all_tasks_blocked()
            assert pool.stats().backends["a.test:1"].backend.weight == 5


async def test_a_cancelled_group_is_no_failure() -> None:
    """A failure in one group with a cancellation says nothing about the backend."""
    connector = Bare()
    reset = ConnectionResetError()
    verdicts: list[bool] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as exc:
            group = BaseExceptionGroup("both", [reset, exc])
            verdicts.append(connector.is_failure(object(), group))
            raise
    assert verdicts == [False]
    assert connector.is_failure(object(), ExceptionGroup("one", [ValueError(), reset]))
    assert not connector.is_failure(object(), ExceptionGroup("none", [ValueError()]))
