"""Each hook of a `Connector`: when it is called, how long it may take, what failing means."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

import qorb_trio
from qorb_trio import Backend, Connector, NoBackendsOnlineError

from ..harness import (
    HANG,
    OK,
    Do,
    LedgerConnector,
    ManualSets,
    PlainLedgerConnector,
    backends,
    fails,
    open_bench,
    policy_of,
    slow,
)

ONE = policy_of(
    max_slots=1,
    spares_wanted=1,
    connect_timeout=7,
    health_check_timeout=4,
    health_interval=20,
    disconnect_timeout=2,
    min_connection_backoff=0.5,
    max_connection_backoff=0.5,
    spread=0,
)
BAD = [
    pytest.param(fails(OSError("no")), 0, id="raises"),
    pytest.param(fails(OSError("no"), after=1), 1, id="raises later"),
    pytest.param(HANG, None, id="hangs"),
]


# --------------------------------------------------------------------- connect


@pytest.mark.parametrize(("act", "takes"), BAD)
async def test_connect_fails(autojump_clock: MockClock, act: Do, takes: float | None) -> None:
    """A connect that raises, or hangs past ``connect_timeout``, is tried again later."""
    connector = LedgerConnector()
    connector.script.next("connect", act)
    start = trio.current_time()
    async with open_bench(connector=connector, policy=ONE) as bench:
        await bench.use(timeout=30)
        ended = start + (7 if takes is None else takes)
        first, second = bench.ledger.dials
        assert first.ended == ended
        assert ended < second.started <= ended + 1
        (stats,) = bench.stats().backends.values()
        assert stats.failures == 1
        assert stats.last_error is not None
        if act is not HANG:
            assert stats.last_error is first.error


async def test_a_slow_connect(autojump_clock: MockClock) -> None:
    """A connect may take as long as ``connect_timeout``."""
    connector = LedgerConnector()
    connector.script.next("connect", slow(6.9))
    start = trio.current_time()
    async with open_bench(connector=connector, policy=ONE) as bench:
        await bench.use(timeout=30)
        assert trio.current_time() == start + 6.9
        assert len(bench.ledger.dials) == 1


async def test_a_connect_that_ignores_its_timeout(autojump_clock: MockClock) -> None:
    """A connect that shields itself and succeeds too late leaks nothing."""
    connector = LedgerConnector()
    connector.script.next("connect", Do(delay=20, shielded=True))
    async with open_bench(connector=connector, policy=ONE) as bench:
        await bench.use(timeout=60)


async def test_the_error_of_a_hung_connect(autojump_clock: MockClock) -> None:
    """A hung connect is the cause of the claim's failure, as an `Exception`."""
    async with open_bench(connector=LedgerConnector(HANG), policy=ONE) as bench:
        with pytest.raises(NoBackendsOnlineError) as caught:
            await bench.pool.acquire(timeout=20)
        assert isinstance(caught.value.__cause__, Exception)


async def test_connect_gets_the_backend(autojump_clock: MockClock) -> None:
    """`connect` is given the very `Backend` that the resolver named."""
    given: list[Backend] = []

    class Noting(Connector[object]):
        async def connect(self, backend: Backend) -> object:
            given.append(backend)
            return object()

    named = backends("a")
    async with (
        trio.open_nursery() as nursery,
        qorb_trio.open_pool(nursery, ManualSets(named), Noting()) as pool,
    ):
        await pool.wait_ready()
        assert given
        assert all(one is named[0] for one in given)


# -------------------------------------------------------------------- is_valid


@pytest.mark.parametrize(("act", "takes"), [*BAD, pytest.param(Do(valid=False), 0, id="says no")])
async def test_is_valid_fails(autojump_clock: MockClock, act: Do, takes: float | None) -> None:
    """A check that fails, says no, or hangs closes the connection, and the slot reconnects."""
    async with open_bench(policy=ONE) as bench:
        await bench.pool.wait_ready()
        (first,) = bench.ledger.idle
        bench.script.next("is_valid", act)
        await bench.until(lambda: bench.ledger.calls["is_valid"] > 0)
        began = float(first.history[-1].partition(":")[0])
        await bench.settle(6)
        assert first.closed_at == pytest.approx(began + (4 if takes is None else takes))
        (stats,) = bench.stats().backends.values()
        assert stats.failures == 1
        assert isinstance(stats.last_error, Exception)
        assert stats.unclaimed == 1
        assert await bench.use(timeout=0) is not first


async def test_is_valid_is_called_when_it_falls_due(autojump_clock: MockClock) -> None:
    """An idle connection is checked once in each ``health_interval``, more or less."""
    async with open_bench(policy=ONE) as bench:
        await bench.settle(210)
        assert 8 <= bench.ledger.calls["is_valid"] <= 11
        assert len(bench.ledger.connections) == 1


async def test_checks_that_hang_delay_no_claim(autojump_clock: MockClock) -> None:
    """Checks that hang leave spares to be claimed, though all have fallen due."""
    policy = policy_of(max_slots=4, spares_wanted=4, health_interval=20, health_check_timeout=15)
    async with open_bench(policy=policy) as bench:
        await bench.pool.wait_ready(4)
        bench.script.next("is_valid", HANG, HANG, HANG, HANG)
        await bench.settle(26)
        assert 1 <= bench.count("checking") < 4
        await bench.use(timeout=0)


class ValidOnly(PlainLedgerConnector):
    """Overrides ``is_valid``, but not ``on_recycle``."""

    async def is_valid(self, conn: Any) -> bool:
        """Do as scripted."""
        self.ledger.calls["is_valid"] += 1
        return await self.script.take("is_valid", conn.backend.name).perform()


@pytest.mark.parametrize(("act", "takes"), [*BAD, pytest.param(Do(valid=False), 0, id="says no")])
async def test_is_valid_stands_in_for_on_recycle(
    autojump_clock: MockClock, act: Do, takes: float | None
) -> None:
    """A returned connection is checked by ``is_valid`` if ``on_recycle`` is not overridden."""
    async with open_bench(connector=ValidOnly(), policy=ONE) as bench:
        first = await bench.use()
        await bench.settle()
        assert bench.ledger.calls["is_valid"] == 1
        assert bench.ledger.idle == [first]
        bench.script.next("is_valid", act)
        before = trio.current_time()
        await bench.use()
        await bench.use(timeout=20)
        assert first.closed_at == before + (4 if takes is None else takes)
        assert isinstance(bench.stats().backends["a"].last_error, Exception)


class NoHooks(Connector[list[str]]):
    """Connects, and nothing else."""

    def __init__(self) -> None:
        self.made: list[list[str]] = []

    async def connect(self, backend: Backend) -> list[str]:
        """A list is a connection that has no ``aclose``."""
        self.made.append([])
        return self.made[-1]


async def test_only_connect_must_be_written(autojump_clock: MockClock) -> None:
    """A connector with nothing but `connect` works, and needs no ``aclose``."""
    connector = NoHooks()
    async with (
        trio.open_nursery() as nursery,
        qorb_trio.open_pool(nursery, ManualSets(backends("a")), connector, policy=ONE) as pool,
    ):
        for _ in range(3):
            async with pool.claim() as conn:
                conn.append("used")
            await trio.sleep(50)
    assert connector.made == [["used"] * 3]


async def test_disconnect_defaults_to_aclose(autojump_clock: MockClock) -> None:
    """By default a connection is closed by its ``aclose``, once."""

    class Stream:
        closed = 0

        async def aclose(self) -> None:
            self.closed += 1
            await trio.lowlevel.checkpoint()

    class Streams(Connector[Stream]):
        def __init__(self) -> None:
            self.made: list[Stream] = []

        async def connect(self, backend: Backend) -> Stream:
            self.made.append(Stream())
            return self.made[-1]

    connector = Streams()
    async with (
        trio.open_nursery() as nursery,
        qorb_trio.open_pool(nursery, ManualSets(backends("ab")), connector) as pool,
    ):
        await pool.wait_ready(8)
    assert [stream.closed for stream in connector.made] == [1] * len(connector.made)


class Unasked:
    """A connection that raises when it is asked for an attribute that it has not."""

    def __getattr__(self, name: str) -> Any:
        raise KeyError(name)


class UnaskedConnector(Connector[Unasked]):
    """Overrides nothing, so that the pool looks for an ``aclose``."""

    async def connect(self, backend: Backend) -> Unasked:
        """A new one."""
        return Unasked()


async def test_a_connection_that_raises_when_asked_for_aclose(autojump_clock: MockClock) -> None:
    """To look for an ``aclose`` may raise: that is a failure to close, and no slot is lost."""
    resolver = ManualSets(backends("a"))
    async with (
        trio.open_nursery() as nursery,
        qorb_trio.open_pool(nursery, resolver, UnaskedConnector(), policy=ONE) as pool,
    ):
        for _ in range(3):
            (await pool.acquire(timeout=5)).discard()
        await pool.wait_ready()
        assert isinstance(pool.stats().backends["a"].last_error, KeyError)
        resolver.set(backends("b"))
        (await pool.acquire(timeout=5)).release()
        assert pool.stats().departed == 0
    assert pool.stats().slots == 0


def test_a_connector_must_connect() -> None:
    """`Connector` and `Resolver` cannot be instantiated without their abstract method."""
    with pytest.raises(TypeError, match="connect"):
        Connector()  # type: ignore[abstract]
    with pytest.raises(TypeError, match="run"):
        qorb_trio.Resolver()  # type: ignore[abstract]


# ------------------------------------------------------------------ on_acquire


@pytest.mark.parametrize(("act", "takes"), BAD)
@pytest.mark.parametrize("spares", [1, 2])
async def test_on_acquire_fails(
    autojump_clock: MockClock, act: Do, takes: float | None, spares: int
) -> None:
    """The connection is discarded, and the claimant gets the next spare, or a new one."""
    policy = policy_of(
        max_slots=2, spares_wanted=spares, health_check_timeout=4, rebalance_interval=1e6
    )
    async with open_bench(policy=policy) as bench:
        await bench.pool.wait_ready(spares)
        bench.script.next("on_acquire", act)
        before = trio.current_time()
        conn = await bench.use(timeout=20)
        assert trio.current_time() - before <= (4 if takes is None else takes) + 0.05
        await bench.settle()
        (failed,) = bench.ledger.closed
        assert failed is not conn
        (stats,) = bench.stats().backends.values()
        assert stats.failures == 1
        assert isinstance(stats.last_error, Exception)
        assert stats.total_claims == bench.stats().claims == 1


async def test_on_acquire_runs_in_the_claimants_task(autojump_clock: MockClock) -> None:
    """``on_acquire`` runs in the task that claims, before the body, for each claim."""
    tasks: list[object] = []

    class Noting(LedgerConnector):
        async def on_acquire(self, conn: Any) -> None:
            tasks.append(trio.lowlevel.current_task())
            await super().on_acquire(conn)

    async with open_bench(connector=Noting(), policy=ONE) as bench:
        await bench.use()
        await bench.use()
        assert tasks == [trio.lowlevel.current_task()] * 2


async def test_an_on_acquire_failure_dials_no_faster(autojump_clock: MockClock) -> None:
    """A connection that was lost to ``on_acquire`` is replaced after a back-off."""
    async with open_bench(policy=ONE) as bench:
        await bench.pool.wait_ready()
        bench.script.next("on_acquire", fails(OSError("no")))
        before = trio.current_time()
        await bench.use(timeout=20)
        assert 0.5 <= trio.current_time() - before <= 0.6


# ------------------------------------------------------------------ on_recycle


@pytest.mark.parametrize(("act", "takes"), BAD)
async def test_on_recycle_fails(autojump_clock: MockClock, act: Do, takes: float | None) -> None:
    """A connection that cannot be cleaned is closed, and a waiting claimant gets another."""
    async with open_bench(policy=ONE) as bench:
        bench.script.next("on_recycle", act)
        first = await bench.use()
        before = trio.current_time()
        second = await bench.use(timeout=20)
        ended = before + (4 if takes is None else takes)
        assert second is not first
        assert first.closed_at == ended
        assert 0.5 <= trio.current_time() - ended <= 0.6


async def test_on_recycle_is_off_the_claimants_path(autojump_clock: MockClock) -> None:
    """The claimant who gives back does not wait for ``on_recycle``."""
    async with open_bench(policy=ONE) as bench:
        bench.script.always("on_recycle", slow(3))
        before = trio.current_time()
        await bench.use()
        assert trio.current_time() == before
        assert bench.count("checking") == 1


# ------------------------------------------------------------------ disconnect


@pytest.mark.parametrize(("act", "takes"), BAD)
async def test_disconnect_fails(autojump_clock: MockClock, act: Do, takes: float | None) -> None:
    """A disconnect that fails or hangs still frees the slot, but not before it has ended."""
    async with open_bench(policy=ONE) as bench:
        bench.script.next("disconnect", act)
        claim = await bench.pool.acquire()
        first = claim.connection
        claim.discard()
        before = trio.current_time()
        await bench.use(timeout=20)
        ended = before + (2 if takes is None else takes)
        assert first.closed_at == ended
        assert bench.ledger.dials[-1].started >= ended
        assert first.forced is (takes is None)


async def test_a_disconnect_is_not_cut_short(autojump_clock: MockClock) -> None:
    """A disconnect within its timeout runs to its end, even as its backend leaves."""
    policy = policy_of(disconnect_timeout=5)
    async with open_bench(policy=policy) as bench:
        bench.script.always("disconnect", slow(4))
        await bench.pool.wait_ready()
        (await bench.pool.acquire()).discard()
        await bench.settle(1)
        bench.resolver.set([])
        await bench.settle(1)
    assert not any(conn.forced for conn in bench.ledger.connections)


async def test_a_healthy_pool_stays_as_it_is(autojump_clock: MockClock) -> None:
    """Claims that begin and end do not make a healthy pool dial or close connections."""
    async with open_bench("ab") as bench:
        await bench.pool.wait_ready(8)
        for _ in range(100):
            await bench.use(0.05)
        assert len(bench.ledger.dials) <= 9
        assert not bench.ledger.closed
        assert bench.stats().claims == 100
        bench.script.always("is_valid", OK)
