"""Single lines of the public contract, each as its author might have read it."""

from __future__ import annotations

import gc
import weakref

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qorb_trio import (
    Backend,
    FixedResolver,
    Instrument,
    MappedResolver,
    Policy,
    PoolTerminatedError,
    SetConfig,
    open_pool,
)
from qorb_trio.testing import FakeConnector, HookedFakeConnector, ManualResolver

A, B, C = (Backend((f"{name}.test", 1), name=name) for name in "abc")


async def test_statistics_follow_a_change_of_the_order(autojump_clock: MockClock) -> None:
    """The backends are in the order of the latest set, also if that moves old ones."""
    resolver = ManualResolver([A, B])
    async with (
        trio.open_nursery() as nursery,
        open_pool(nursery, resolver, FakeConnector()) as pool,
    ):
        await pool.wait_ready()
        assert list(pool.stats().backends) == ["a", "b"]
        resolver.set([C, B, A])
        await wait_all_tasks_blocked()
        assert list(pool.stats().backends) == ["c", "b", "a"]


@pytest.mark.parametrize("leaves", ["the pool", "the backend"])
async def test_set_up_of_a_connection_that_is_taken_away_is_interrupted(
    autojump_clock: MockClock, leaves: str
) -> None:
    """A claimant in ``on_acquire`` learns at once that its claim cannot be granted any more."""
    # The pool's end gives claims five seconds. This one ends at once.
    resolver, connector = ManualResolver([A]), HookedFakeConnector()
    connector.stall("a", on="on_acquire")
    ends: list[tuple[float, object]] = []

    async def claim() -> None:
        try:
            async with pool.claim() as conn:
                ends.append((trio.current_time(), conn.backend))
        except PoolTerminatedError as exc:
            ends.append((trio.current_time(), exc.stats.backends["a"].failures))

    async with trio.open_nursery() as nursery:
        async with open_pool(nursery, resolver, connector) as pool:
            await pool.wait_ready()
            nursery.start_soon(claim)
            await trio.sleep(1)
            assert connector.calls["on_acquire"] == 1
            if leaves == "the backend":
                resolver.set([B])
                await trio.sleep(0.1)
                assert [backend for _, backend in ends] == [B]
    [(time, result)] = ends
    assert time == pytest.approx(1, abs=0.01)
    if leaves == "the pool":
        assert result == 0
    connector.assert_all_closed()


async def test_wrong_thread_comes_before_the_wrong_argument(autojump_clock: MockClock) -> None:
    """A method that changes state looks first for the thread, and then for its argument."""
    async with (
        trio.open_nursery() as nursery,
        open_pool(nursery, FixedResolver(["a.test:1"]), FakeConnector()) as pool,
    ):
        await pool.wait_ready()
        claim = pool.claim_nowait()
        for call in (
            lambda: pool.add_instrument(None),  # type: ignore[arg-type]
            lambda: pool.remove_instrument(Instrument()),
            lambda: pool.reconfigure(None),  # type: ignore[arg-type]
            lambda: pool.recycle(over=-1),
            lambda: claim.report(failed=1),  # type: ignore[arg-type]
        ):
            with pytest.raises(RuntimeError, match=r"trio\.from_thread\.run_sync"):
                await trio.to_thread.run_sync(call)
        claim.release()


@pytest.mark.parametrize("claimed", [5, 8])
async def test_lowered_max_count_closes_connections_as_they_return(
    autojump_clock: MockClock, claimed: int
) -> None:
    """Above a lowered ``max_count``, as above ``max_slots``, returned connections are closed."""
    connector = FakeConnector()
    policy = Policy(spares_wanted=8, max_slots=8)
    async with (
        trio.open_nursery() as nursery,
        open_pool(nursery, ManualResolver([A, B]), connector, policy=policy) as pool,
    ):
        await pool.wait_ready(8)
        claims = [await pool.acquire() for _ in range(claimed)]
        pool.reconfigure(Policy(spares_wanted=8, max_slots=8, set_config=SetConfig(max_count=2)))
        await wait_all_tasks_blocked()
        assert len(connector.open) == claimed
        for claim in claims:
            claim.release()
            await wait_all_tasks_blocked()
        assert [len(connector.to(backend)) for backend in (A, B)] == [2, 2]
        assert connector.connects == 8


async def test_connection_of_a_claim_that_was_cut_is_not_to_be_had(
    autojump_clock: MockClock,
) -> None:
    """A claim that the pool's end has cut has no connection, not even while that is closing."""
    async with trio.open_nursery() as nursery:
        connector = FakeConnector(disconnect_delay=0.5)
        policy = Policy(drain_timeout=0)
        async with open_pool(
            nursery, FixedResolver(["a.test:1"]), connector, policy=policy
        ) as pool:
            await pool.wait_ready()
            claim = pool.claim_nowait()
            nursery.start_soon(pool.terminate)
            await trio.sleep(0.1)
            assert not pool.is_closed
            with pytest.raises(RuntimeError, match="the pool has ended"):
                _ = claim.connection
            claim.release()
            with pytest.raises(RuntimeError, match="released already"):
                claim.release()
    connector.assert_all_closed()


def test_mapped_resolver_takes_no_async_function() -> None:
    """A function that would return a coroutine is refused at construction."""

    async def function(backends: object) -> object:
        raise AssertionError(backends)

    with pytest.raises(TypeError, match="function must not be async"):
        MappedResolver(FixedResolver([A]), function)  # type: ignore[arg-type]


class HeavyError(ConnectionError):
    """An error that can be referred to weakly."""


async def test_d_no_error_is_kept_for_long_after_recovery(autojump_clock: MockClock) -> None:
    """The error of an outage is dropped though nobody asks for statistics."""
    connector = FakeConnector()
    error = HeavyError()
    gone = weakref.ref(error)
    connector.fail("a", error)
    del error
    async with (
        trio.open_nursery() as nursery,
        open_pool(nursery, FixedResolver([A]), connector) as pool,
    ):
        await trio.sleep(3)
        assert pool.stats().backends["a"].last_error is gone()
        connector.heal()
        await pool.wait_ready()
        await trio.sleep(2)
        stats = pool.stats().backends["a"]
        assert (stats.online, stats.last_error) == (True, gone())
        del stats
        await trio.sleep(130)
        gc.collect()
        assert gone() is None
        assert pool.stats().backends["a"].last_error is None
