"""Claims: how they are asked for, what they give, and how they end."""

from __future__ import annotations

import gc
import math
from typing import Any

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, assert_no_checkpoints

import qorb_trio
from qorb_trio import AllClaimsUsedError, ClaimTimeoutError, NoBackendsError, PoolTerminatedError

from ..harness import (
    HANG,
    OK,
    Bench,
    Do,
    LedgerConnection,
    LedgerConnector,
    ManualSets,
    PlainLedgerConnector,
    backends,
    fails,
    open_bench,
    policy_of,
    slow,
)

KINDS = [LedgerConnector, PlainLedgerConnector]


def acquired(connector: PlainLedgerConnector) -> int:
    """Return the number of calls of ``on_acquire``."""
    return connector.ledger.calls["on_acquire"]


# ------------------------------------------------------------------- the basics


@pytest.mark.parametrize("kind", KINDS)
async def test_a_claim_lends_a_connection(
    autojump_clock: MockClock, kind: type[PlainLedgerConnector]
) -> None:
    """`claim` yields what `connect` returned, and the next claim may have it again."""
    policy = policy_of(max_slots=1)
    async with open_bench(connector=kind(), policy=policy) as bench:
        for _ in range(5):
            async with bench.claim() as conn:
                assert conn is bench.ledger.connections[0]
                assert bench.count("claimed") == 1
        assert bench.stats().claims == 5
        assert len(bench.ledger.connections) == 1


async def test_the_context_manager_is_the_claim(autojump_clock: MockClock) -> None:
    """`claim` returns a `Claim`, which knows its connection and its backend."""
    async with open_bench() as bench:
        claim = bench.pool.claim()
        assert isinstance(claim, qorb_trio.Claim)
        async with claim as conn:
            assert claim.connection is conn
            assert claim.backend is conn.backend


async def test_acquire_gives_a_claim(autojump_clock: MockClock) -> None:
    """`acquire` gives a `Claim` that is released by hand."""
    async with open_bench() as bench:
        claim = await bench.pool.acquire()
        assert isinstance(claim, qorb_trio.Claim)
        assert isinstance(claim.connection, LedgerConnection)
        assert claim.backend == claim.connection.backend
        assert bench.count("claimed") == 1
        claim.release()
        assert bench.count("claimed") == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ready", [True, False])
async def test_asking_is_a_checkpoint(
    autojump_clock: MockClock, kind: type[PlainLedgerConnector], ready: bool
) -> None:
    """`acquire`, and entering `claim`, are checkpoints, with a spare or without."""
    async with open_bench(connector=kind()) as bench:
        if ready:
            await bench.pool.wait_ready(8)
        with assert_checkpoints():
            claim = await bench.pool.acquire()
        claim.release()
        manager = bench.pool.claim()
        with assert_checkpoints():
            await manager.__aenter__()
        await manager.__aexit__(None, None, None)


async def test_a_failing_acquire_is_a_checkpoint_too(autojump_clock: MockClock) -> None:
    """A claim that fails at once has still been a checkpoint."""
    async with open_bench(None) as bench:
        with pytest.raises(NoBackendsError), assert_checkpoints():
            await bench.pool.acquire(timeout=0)


# ---------------------------------------------------------------- the timeout


@pytest.mark.parametrize("method", ["claim", "acquire"])
@pytest.mark.parametrize(
    ("timeout", "kind"),
    [
        (math.nan, ValueError),
        (-1, ValueError),
        (-0.001, ValueError),
        (-math.inf, ValueError),
        (True, TypeError),
        (False, TypeError),
        ("1", TypeError),
        ([], TypeError),
    ],
)
async def test_wrong_timeouts(
    autojump_clock: MockClock, method: str, timeout: Any, kind: type[Exception]
) -> None:
    """A timeout that is no number of seconds raises, and costs nothing."""
    async with open_bench() as bench:
        await bench.settle()
        with pytest.raises(kind, match="timeout"):
            if method == "claim":
                async with bench.pool.claim(timeout=timeout):
                    raise AssertionError("must not be entered")
            else:
                await bench.pool.acquire(timeout=timeout)
        assert bench.stats().claims == 0
        assert bench.count("claimed") == 0


async def test_the_timeout_is_a_keyword(autojump_clock: MockClock) -> None:
    """``claim(5)`` and ``acquire(5)`` are type errors."""
    async with open_bench() as bench:
        pool: Any = bench.pool
        with pytest.raises(TypeError):
            pool.claim(5)
        with pytest.raises(TypeError):
            await pool.acquire(5)


@pytest.mark.parametrize("timeout", [None, 0.25, 3, 1000])
async def test_a_claim_waits_as_long_as_its_timeout(
    autojump_clock: MockClock, timeout: float | None
) -> None:
    """A claim fails exactly when its timeout is over; `None` is the policy's."""
    policy = policy_of(max_slots=1, claim_timeout=17)
    async with open_bench(policy=policy) as bench, bench.claim():
        before = trio.current_time()
        for ask in (bench.use, bench.pool.acquire):
            with pytest.raises(AllClaimsUsedError):
                await ask(timeout=timeout)
        expected = 17 if timeout is None else timeout
        assert trio.current_time() - before == pytest.approx(2 * expected)


@pytest.mark.parametrize("by_policy", [True, False])
async def test_an_endless_timeout(autojump_clock: MockClock, by_policy: bool) -> None:
    """``math.inf`` waits for as long as it takes, by argument or by policy."""
    policy = policy_of(max_slots=1, claim_timeout=math.inf if by_policy else 1)
    async with open_bench(policy=policy) as bench:
        bench.nursery.start_soon(bench.use, 9000)
        await bench.settle()
        before = trio.current_time()
        await bench.use(timeout=None if by_policy else math.inf)
        assert trio.current_time() == before + 9000


@pytest.mark.parametrize("by_policy", [True, False])
async def test_a_timeout_of_zero(autojump_clock: MockClock, by_policy: bool) -> None:
    """With a timeout of zero a claim takes a spare or fails, and never waits."""
    policy = policy_of(max_slots=1, claim_timeout=0 if by_policy else 99)
    timeout = None if by_policy else 0
    async with open_bench(policy=policy) as bench:
        await bench.pool.wait_ready()
        before = trio.current_time()
        await bench.use(timeout=timeout)
        await bench.settle()
        async with bench.claim(timeout=timeout):
            with pytest.raises(AllClaimsUsedError):
                await bench.pool.acquire(timeout=timeout)
            assert bench.stats().waiting == 0
        assert trio.current_time() == before


async def test_a_timeout_of_zero_bounds_no_on_acquire(autojump_clock: MockClock) -> None:
    """With a timeout of zero ``on_acquire`` still has its ``health_check_timeout``."""
    policy = policy_of(max_slots=1, health_check_timeout=3)
    async with open_bench(policy=policy) as bench:
        await bench.pool.wait_ready()
        bench.script.always("on_acquire", slow(2.5))
        before = trio.current_time()
        await bench.use(timeout=0)
        assert trio.current_time() == before + 2.5


async def test_a_timeout_of_zero_tries_the_next_spare(autojump_clock: MockClock) -> None:
    """With a timeout of zero, a spare whose ``on_acquire`` fails is followed by the next."""
    async with open_bench(policy=policy_of(spares_wanted=3)) as bench:
        await bench.pool.wait_ready(3)
        bench.script.next("on_acquire", fails(OSError), fails(OSError))
        before = trio.current_time()
        await bench.use(timeout=0)
        assert trio.current_time() == before
        assert acquired(bench.connector) == 3


async def test_a_timeout_of_zero_gives_up_after_the_last_spare(
    autojump_clock: MockClock,
) -> None:
    """With a timeout of zero, the claim fails when every spare has failed."""
    async with open_bench(policy=policy_of(spares_wanted=3, max_slots=3)) as bench:
        await bench.pool.wait_ready(3)
        bench.script.always("connect", slow(1))
        bench.script.always("on_acquire", fails(OSError))
        before = trio.current_time()
        with pytest.raises(ClaimTimeoutError):
            await bench.use(timeout=0)
        assert trio.current_time() == before
        assert acquired(bench.connector) == 3
        bench.script.always("on_acquire", OK)


async def test_a_timeout_of_zero_tries_no_connection_that_is_still_to_come(
    autojump_clock: MockClock,
) -> None:
    """With a timeout of zero, what connects while a spare is being set up is not tried too."""
    policy = policy_of(spares_wanted=3, max_slots=3, health_check_timeout=3)
    async with open_bench(policy=policy) as bench:
        await bench.pool.wait_ready(3)
        bench.script.always("on_acquire", HANG)
        before = trio.current_time()
        with pytest.raises(ClaimTimeoutError) as caught:
            await bench.use(timeout=0)
        assert isinstance(caught.value.__cause__, trio.TooSlowError)
        assert trio.current_time() == before + 9
        assert acquired(bench.connector) == 3
        bench.script.always("on_acquire", OK)


async def test_the_timeout_covers_on_acquire(autojump_clock: MockClock) -> None:
    """Waiting and every ``on_acquire`` that is tried share the one timeout."""
    policy = policy_of(max_slots=1, health_check_timeout=4)
    async with open_bench(policy=policy) as bench:
        bench.nursery.start_soon(bench.use, 3)
        await bench.settle()
        before = trio.current_time()
        bench.script.always("on_acquire", HANG)
        with pytest.raises(ClaimTimeoutError):
            await bench.use(timeout=5)
        assert trio.current_time() == before + 5
        bench.script.always("on_acquire", OK)
        await bench.use()


async def test_an_impatient_claim_is_no_failure_of_the_backend(autojump_clock: MockClock) -> None:
    """A claim that times out during ``on_acquire`` is not counted against the backend."""
    async with open_bench(policy=policy_of(max_slots=1, health_check_timeout=4)) as bench:
        bench.script.next("on_acquire", HANG)
        with pytest.raises(ClaimTimeoutError):
            await bench.use(timeout=1)
        (stats,) = bench.stats().backends.values()
        assert (stats.failures, stats.last_error) == (0, None)


@pytest.mark.parametrize("act", [OK, Do(steps=2), slow(1)])
async def test_a_claim_whose_time_is_up_takes_no_other_spare(
    autojump_clock: MockClock, act: Do
) -> None:
    """A claim that times out inside an ``on_acquire`` does not try another spare."""
    async with open_bench(policy=policy_of(spares_wanted=5, health_check_timeout=60)) as bench:
        await bench.pool.wait_ready(5)
        bench.script.always("on_acquire", act)
        bench.script.next("on_acquire", HANG)
        before = trio.current_time()
        with pytest.raises(ClaimTimeoutError):
            await bench.use(timeout=5)
        assert trio.current_time() == before + 5
        assert acquired(bench.connector) == 1
        assert len(bench.ledger.closed) <= 1


async def test_on_acquire_is_bounded_by_the_check_timeout(autojump_clock: MockClock) -> None:
    """An ``on_acquire`` that hangs is given up after ``health_check_timeout``."""
    policy = policy_of(spares_wanted=2, health_check_timeout=4)
    async with open_bench(policy=policy) as bench:
        await bench.pool.wait_ready(2)
        before = trio.current_time()
        bench.script.next("on_acquire", HANG)
        conn = await bench.use(timeout=100)
        assert trio.current_time() == before + 4
        (failed,) = bench.ledger.closed
        assert failed is not conn


async def test_the_body_is_not_under_the_timeout(autojump_clock: MockClock) -> None:
    """The timeout ends with the acquisition: the body may take as long as it likes."""
    async with open_bench() as bench:
        async with bench.claim(timeout=1):
            await trio.sleep(500)
        assert bench.ledger.returned[-1][1] is None


# ------------------------------------------------------------ release, discard


@pytest.mark.parametrize("how", ["release", "discard"])
@pytest.mark.parametrize("waiters", [0, 2])
async def test_ff08_giving_back_is_synchronous(
    autojump_clock: MockClock, how: str, waiters: int
) -> None:
    """`release` and `discard` are no checkpoints, and the slot is free when they return."""
    policy = policy_of(max_slots=1)
    async with open_bench(policy=policy) as bench:
        claim = await bench.pool.acquire()
        for _ in range(waiters):
            bench.nursery.start_soon(bench.use)
        await bench.settle()
        bench.ledger.give(claim.connection)
        with assert_no_checkpoints():
            getattr(claim, how)()
        assert bench.count("claimed") <= 1 if waiters else bench.count("claimed") == 0
        await bench.settle()
        assert bench.stats().claims == 1 + waiters


@pytest.mark.parametrize("how", ["release", "discard"])
async def test_ff08_giving_back_under_cancellation(autojump_clock: MockClock, how: str) -> None:
    """In a ``finally`` under a cancelled scope, `release` and `discard` do their work."""
    policy = policy_of(max_slots=1)
    async with open_bench(policy=policy) as bench:
        with trio.CancelScope() as scope:
            claim = await bench.pool.acquire()
            try:
                scope.cancel()
                await trio.sleep(1)
            finally:
                with assert_no_checkpoints():
                    getattr(claim, how)()
        assert scope.cancelled_caught
        assert bench.count("claimed") == 0
        await bench.use(timeout=1)


async def test_leaving_the_block_is_no_checkpoint(autojump_clock: MockClock) -> None:
    """Leaving ``async with pool.claim()`` never gives way to another task."""
    async with open_bench() as bench:
        for exc in (None, ValueError("the body's")):
            claim: Any = bench.pool.claim()
            await claim.__aenter__()
            with assert_no_checkpoints():
                swallowed = await claim.__aexit__(None if exc is None else type(exc), exc, None)
            assert not swallowed


async def test_release_from_another_task(autojump_clock: MockClock) -> None:
    """A claim may be released by a task that is not the one that made it."""
    async with open_bench(policy=policy_of(max_slots=1)) as bench:
        claim = await bench.pool.acquire()

        async def release() -> None:
            claim.release()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(release)
        await bench.use(timeout=1)


async def test_release_in_a_finally(autojump_clock: MockClock) -> None:
    """`release` in a ``finally`` that an exception is passing asks about that exception."""
    error = KeyError()
    async with open_bench(policy=policy_of(max_slots=1)) as bench:
        claim = await bench.pool.acquire()
        with pytest.raises(KeyError):
            try:
                raise error
            finally:
                claim.release()
        assert bench.ledger.returned == [(bench.ledger.connections[0], error)]
        await bench.settle()
        assert bench.ledger.connections[0].closes == 1


async def test_release_while_handling_an_older_exception(autojump_clock: MockClock) -> None:
    """An exception that was being handled before the claim has nothing to do with it."""
    async with open_bench(policy=policy_of(max_slots=1)) as bench:
        try:
            raise KeyError
        except KeyError:
            claim = await bench.pool.acquire()
            claim.release()
        assert bench.ledger.returned == [(bench.ledger.connections[0], None)]


async def test_release_by_hand_after_an_exception(autojump_clock: MockClock) -> None:
    """Once an exception has been dealt with, `release` has nothing to ask about."""
    async with open_bench(policy=policy_of(max_slots=1)) as bench:
        claim = await bench.pool.acquire()
        with pytest.raises(KeyError):
            raise KeyError
        claim.release()
        assert bench.ledger.returned == [(bench.ledger.connections[0], None)]


@pytest.mark.parametrize("kind", KINDS)
async def test_discard_closes_the_connection(
    autojump_clock: MockClock, kind: type[PlainLedgerConnector]
) -> None:
    """`discard` closes instead of recycling, and is no failure of the backend."""
    async with open_bench(connector=kind(), policy=policy_of(max_slots=1)) as bench:
        claim = await bench.pool.acquire()
        conn = claim.connection
        claim.discard()
        await bench.settle()
        assert bench.ledger.closed == [conn]
        assert bench.ledger.calls["on_recycle"] == 0
        (stats,) = bench.stats().backends.values()
        assert stats.failures == 0
        assert stats.last_error is None
        assert await bench.use() is not conn


@pytest.mark.parametrize("how", ["release", "discard"])
async def test_ending_a_claim_inside_its_block(autojump_clock: MockClock, how: str) -> None:
    """A claim that its body has ended is simply left: the block has nothing to do."""
    async with open_bench(policy=policy_of(max_slots=1)) as bench:
        async with (claim := bench.pool.claim()):
            getattr(claim, how)()
            await bench.use(timeout=5)
            assert bench.stats().claims == 2
        assert bench.count("claimed") == 0
        assert len(bench.ledger.closed) == (how == "discard")


@pytest.mark.parametrize("first", ["release", "discard", "leave"])
@pytest.mark.parametrize("second", ["release", "discard"])
async def test_ff50_a_claim_ends_once(autojump_clock: MockClock, first: str, second: str) -> None:
    """A second `release` or `discard` raises `RuntimeError`, and makes no second owner."""
    async with open_bench(policy=policy_of(max_slots=2)) as bench:
        await bench.pool.wait_ready(2)
        if first == "leave":
            async with (claim := bench.pool.claim()):
                pass
        else:
            claim = await bench.pool.acquire()
            getattr(claim, first)()
        await bench.settle()
        before = bench.stats()
        async with bench.claim() as conn:
            for _ in range(2):
                with pytest.raises(RuntimeError):
                    getattr(claim, second)()
            assert conn.closes == 0
            assert bench.count("claimed") == 1
            async with bench.claim() as other:
                assert other is not conn
                with pytest.raises(AllClaimsUsedError):
                    await bench.use(timeout=1)
        await bench.settle()
        assert bench.stats().slots == before.slots


@pytest.mark.parametrize("how", ["release", "discard", "leave"])
async def test_ff51_use_after_release(autojump_clock: MockClock, how: str) -> None:
    """`Claim.connection` raises `RuntimeError` once the claim has ended."""
    async with open_bench() as bench:
        if how == "leave":
            async with (claim := bench.pool.claim()) as conn:
                assert claim.connection is conn
        else:
            claim = await bench.pool.acquire()
            getattr(claim, how)()
        with pytest.raises(RuntimeError):
            _ = claim.connection


async def test_a_claim_is_for_one_use(autojump_clock: MockClock) -> None:
    """A claim that has ended cannot be entered again, nor one that is under way."""
    async with open_bench() as bench:
        claim = bench.pool.claim()
        async with claim:
            with pytest.raises(RuntimeError):
                await claim.__aenter__()
        with pytest.raises(RuntimeError):
            async with claim:
                raise AssertionError("must not be entered")
        await bench.settle()
        assert bench.count("claimed") == 0
        assert bench.stats().claims == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["terminated", "removed"])
async def test_granted_as_the_pool_ends(
    autojump_clock: MockClock, kind: type[PlainLedgerConnector], end: str
) -> None:
    """A claim that is granted in the tick of the end, or as its backend leaves, is sound."""
    policy = policy_of(max_slots=1, drain_timeout=0)
    outcomes = set()
    for turn in range(80):
        async with open_bench("a", connector=kind(), policy=policy) as bench:

            async def client(bench: Bench) -> None:
                try:
                    async with bench.claim(timeout=0) as conn:
                        assert conn.closes == 0
                        outcomes.add("granted")
                except (PoolTerminatedError, ClaimTimeoutError) as exc:
                    outcomes.add(type(exc).__name__)

            await bench.pool.wait_ready()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client, bench)
                for _ in range(turn % 4):
                    await trio.lowlevel.checkpoint()
                if end == "terminated":
                    bench.ledger.hold_until = 0
                    nursery.start_soon(bench.pool.terminate)
                else:
                    bench.resolver.set([])
    assert "granted" in outcomes
    assert len(outcomes) > 1


@pytest.mark.parametrize("kind", KINDS)
async def test_handed_over_as_the_backend_leaves(
    autojump_clock: MockClock, kind: type[PlainLedgerConnector]
) -> None:
    """A claimant that waits gets no connection of a backend that leaves as it is handed over."""
    policy = policy_of(max_slots=1, claim_timeout=1)
    outcomes = set()
    for turn in range(80):
        async with open_bench("a", connector=kind(), policy=policy) as bench:

            async def client(bench: Bench) -> None:
                try:
                    async with bench.pool.claim():
                        assert bench.stats().backends
                        outcomes.add("granted")
                except NoBackendsError:
                    outcomes.add("refused")

            held = await bench.pool.acquire()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client, bench)
                await bench.settle()
                bench.resolver.set([])
                for _ in range(turn % 8):
                    await trio.lowlevel.checkpoint()
                held.release()
    assert outcomes == {"granted", "refused"}


async def test_each_claimant_that_waits_is_planned_for(autojump_clock: MockClock) -> None:
    """Though the spares that are wanted take all slots, a claimant does not wait for a dial
    that `max_connecting` puts off while another backend could serve it."""
    connector = PlainLedgerConnector()
    connector.script.always("connect", HANG, backend="a")
    policy = policy_of(max_slots=4, spares_wanted=4, max_count=4, max_connecting=1)
    async with open_bench("ab", connector=connector, policy=policy) as bench:
        await bench.settle()
        held = [await bench.pool.acquire() for _ in range(2)]
        began = trio.current_time()

        async def client() -> None:
            async with bench.pool.claim():
                pass

        async with trio.open_nursery() as nursery:
            # The first waits for the dial that goes on. The second is one too many for it.
            for waiting in (1, 0):
                nursery.start_soon(client)
                await bench.settle()
                assert bench.stats().waiting == waiting
        assert trio.current_time() == began
        for claim in held:
            claim.release()


async def test_a_claim_that_is_never_entered(autojump_clock: MockClock) -> None:
    """A claim that nobody enters has claimed nothing, and warns of nothing."""
    async with open_bench() as bench:
        await bench.settle()
        bench.pool.claim()
        gc.collect()
        await bench.settle()
        assert bench.stats().claims == 0
        assert bench.count("claimed") == 0


# ---------------------------------------------------------------- garbage


def forget(box: list[object]) -> None:
    """Drop what may be the last reference to a claim."""
    box.clear()
    gc.collect()


@pytest.mark.parametrize("dirty", [False, True])
@pytest.mark.parametrize("cyclic", [False, True])
async def test_ff52_a_claim_that_is_garbage_collected(
    autojump_clock: MockClock, dirty: bool, cyclic: bool
) -> None:
    """A forgotten claim warns, naming pool and backend, and gives its slot back."""
    policy = policy_of(max_slots=1)
    async with open_bench("x", policy=policy, name="db") as bench:
        claim = await bench.pool.acquire()
        claim.connection.dirty = dirty
        box: list[object] = [claim]
        if cyclic:
            ring: list[object] = [claim]
            ring.append(ring)
            box = [ring]
            del ring
        del claim
        with pytest.warns(ResourceWarning, match=r"(?s)(?=.*\bdb\b)(?=.*\bx\b)"):
            forget(box)
        await bench.settle()
        assert bench.count("claimed") == 0
        await bench.use(timeout=5)


async def test_ff52_a_failed_set_up_keeps_no_claim_alive(autojump_clock: MockClock) -> None:
    """A forgotten claim is found, even if a backend's last error was raised as it began."""
    async with open_bench("xy", policy=policy_of(max_slots=2, spares_wanted=2)) as bench:
        await bench.pool.wait_ready(2)
        bench.script.next("on_acquire", fails(OSError))
        box: list[object] = [await bench.pool.acquire()]
        assert [it.last_error for it in bench.stats().backends.values()].count(None) == 1
        with pytest.warns(ResourceWarning, match="pool"):
            forget(box)
        await bench.settle()
        assert bench.count("claimed") == 0


class Faulty(qorb_trio.Connector[object]):
    """A connector whose synchronous hooks raise while a task has two claims."""

    def __init__(self, hook: str) -> None:
        self.hook = hook
        self.armed = False

    async def connect(self, backend: qorb_trio.Backend) -> object:
        return object()

    def is_broken(self, conn: object) -> bool:
        return self._answer("is_broken", False)

    def should_recycle(self, conn: object, exc: BaseException | None) -> bool:
        return self._answer("should_recycle", exc is None)

    def _answer(self, hook: str, answer: bool) -> bool:
        if self.armed and hook == self.hook:
            self.armed = False
            raise LookupError(hook) from OSError()
        return answer


@pytest.mark.parametrize("hook", ["is_broken", "should_recycle"])
async def test_ff52_a_failed_hook_keeps_no_claim_alive(
    autojump_clock: MockClock, hook: str
) -> None:
    """A claim that a task forgets is found, even if a hook has raised in that task meanwhile."""
    connector = Faulty(hook)

    async def forgetful() -> None:
        claim = await pool.acquire()
        connector.armed = True
        other = await pool.acquire()
        other.release()
        assert claim.connection is not None

    policy = policy_of(max_slots=3, spares_wanted=3)
    async with trio.open_nursery() as nursery:
        resolver = ManualSets(backends("a"))
        async with qorb_trio.open_pool(nursery, resolver, connector, policy=policy) as pool:
            await pool.wait_ready(3)
            with pytest.warns(ResourceWarning, match="pool"):
                await forgetful()
                gc.collect()
            (stats,) = pool.stats().backends.values()
            assert repr(stats.last_error) == f"LookupError('{hook}')"


async def test_ff52_a_waiter_is_served_by_the_garbage(autojump_clock: MockClock) -> None:
    """A claimant that waits gets the slot of a claim that is garbage collected."""
    async with open_bench(policy=policy_of(max_slots=1)) as bench:
        box: list[object] = [await bench.pool.acquire()]
        bench.nursery.start_soon(bench.use)
        await bench.settle()
        with pytest.warns(ResourceWarning, match="pool"):
            forget(box)
        await bench.settle(1)
        assert bench.stats().claims == 2


async def test_ff52_garbage_after_the_pool(autojump_clock: MockClock) -> None:
    """A claim that outlives its pool and is then forgotten does no harm."""
    async with open_bench(policy=policy_of(drain_timeout=1)) as bench:
        box: list[object] = [await bench.pool.acquire()]
    with pytest.warns(ResourceWarning, match="pool"):
        forget(box)
    assert bench.stats().slots == 0


async def test_ff53_an_abandoned_async_generator(autojump_clock: MockClock) -> None:
    """A claim inside an async generator that nobody finishes gives its slot back."""

    async def rows(bench: Bench) -> Any:
        async with bench.pool.claim() as conn:
            conn.begin()
            for row in range(10):
                await trio.lowlevel.checkpoint()
                yield row

    async def abandon(bench: Bench) -> None:
        async for _ in rows(bench):
            break
        gc.collect()

    async with open_bench(policy=policy_of(max_slots=1)) as bench:
        with pytest.warns(ResourceWarning, match="rows"):
            await abandon(bench)
        await bench.settle()
        assert bench.count("claimed") == 0
        await bench.use(timeout=5)
        assert bench.ledger.connections[0].closes == 1


# ---------------------------------------------------------- what can be lent


async def test_connections_of_any_kind(autojump_clock: MockClock) -> None:
    """A connection may be falsy, unhashable, and equal to every other."""

    class Odd(list[int]):  # noqa: PLW1641 - that is what is tested
        def __eq__(self, other: object) -> bool:
            return True

        def __bool__(self) -> bool:
            return False

    class OddConnector(qorb_trio.Connector[Odd]):
        def __init__(self) -> None:
            self.open: dict[int, Odd] = {}
            self.closed = 0

        async def connect(self, backend: qorb_trio.Backend) -> Odd:
            odd = Odd()
            self.open[id(odd)] = odd
            return odd

        async def disconnect(self, conn: Odd) -> None:
            del self.open[id(conn)]
            self.closed += 1

    connector = OddConnector()
    async with trio.open_nursery() as nursery:
        resolver = ManualSets(backends("ab"))
        async with qorb_trio.open_pool(nursery, resolver, connector) as pool:
            await pool.wait_ready(8)
            async with pool.claim() as one, pool.claim() as two:
                assert one is not two
                assert isinstance(one, Odd)
    assert not connector.open
    assert connector.closed >= 8
