"""`open_pool`: its arguments, and what leaving its block means."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import qorb_trio
from qorb_trio import Backend, Policy, PoolTerminatedError, Resolver

from ..harness import (
    HANG,
    Bench,
    Do,
    LedgerConnector,
    ManualSets,
    backends,
    fails,
    open_bench,
    policy_of,
    slow,
)

Args = dict[str, Any]


def good_arguments() -> Args:
    """Return valid arguments of `open_pool`, without the nursery."""
    return {"resolver": ManualSets(backends("a")), "connector": LedgerConnector()}


# ------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("nursery", None, TypeError),
        ("nursery", "nursery", TypeError),
        ("nursery", trio.Nursery, TypeError),
        ("nursery", trio.open_nursery, TypeError),
        ("resolver", None, TypeError),
        ("resolver", [("a", 1)], TypeError),
        ("resolver", ManualSets, TypeError),
        ("connector", None, TypeError),
        ("connector", LedgerConnector, TypeError),
        ("connector", lambda backend: backend, TypeError),
        ("policy", None, TypeError),
        ("policy", {}, TypeError),
        ("policy", Policy, TypeError),
        ("policy", qorb_trio.SetConfig(), TypeError),
        ("name", None, TypeError),
        ("name", b"pool", TypeError),
        ("name", 7, TypeError),
        ("instruments", 7, TypeError),
        ("instruments", [object()], TypeError),
        ("instruments", [qorb_trio.Instrument], TypeError),
        ("instruments", qorb_trio.Instrument(), TypeError),
        ("rng", 7, TypeError),
        ("rng", random, TypeError),
        ("rng", random.Random, TypeError),
    ],
)
async def test_wrong_arguments(
    autojump_clock: MockClock, name: str, value: object, kind: type[Exception]
) -> None:
    """A wrong argument raises an error that names it, before anything is started."""
    async with trio.open_nursery() as nursery:
        arguments = {"nursery": nursery, **good_arguments(), name: value}
        with pytest.raises(kind, match=name):
            async with qorb_trio.open_pool(**arguments):
                raise AssertionError("must not be entered")
        assert not nursery.child_tasks


async def test_the_options_are_keywords(autojump_clock: MockClock) -> None:
    """Everything behind the connector is keyword-only."""
    good = good_arguments()
    async with trio.open_nursery() as nursery:
        open_pool: Any = qorb_trio.open_pool
        with pytest.raises(TypeError):
            open_pool(nursery, good["resolver"], good["connector"], Policy())


async def test_name_and_policy_are_as_given(autojump_clock: MockClock) -> None:
    """The pool tells its name and its policy."""
    policy = policy_of(max_slots=3)
    async with open_bench(policy=policy, name="db") as bench:
        assert bench.pool.name == "db"
        assert bench.pool.policy is policy


async def test_the_defaults(autojump_clock: MockClock) -> None:
    """The policy is ``Policy()`` and the name is ``"pool"`` unless given."""
    good = good_arguments()
    async with (
        trio.open_nursery() as nursery,
        qorb_trio.open_pool(nursery, good["resolver"], good["connector"]) as pool,
    ):
        assert pool.name == "pool"
        assert pool.policy == Policy()


async def test_entering_does_not_wait(autojump_clock: MockClock) -> None:
    """The block is entered at once, though no backend is known or can be reached."""
    before = trio.current_time()
    async with open_bench(None) as bench:
        assert trio.current_time() == before
        assert bench.stats().backends == {}
    connector = LedgerConnector(HANG)
    async with open_bench("a", connector=connector):
        assert trio.current_time() == before


async def test_the_rng_makes_a_run_repeatable(autojump_clock: MockClock) -> None:
    """With the same rng, failing connects are tried at the same times again."""
    runs: list[list[float]] = []
    for seed in (5, 5, 6):
        connector = LedgerConnector(fails(OSError))
        start = trio.current_time()
        async with (
            trio.open_nursery() as nursery,
            qorb_trio.open_pool(
                nursery,
                ManualSets(backends("a")),
                connector,
                policy=policy_of(max_slots=1, spread=0.5),
                rng=random.Random(seed),
            ),
        ):
            await trio.sleep(20)
        runs.append([round(dial.started - start, 6) for dial in connector.ledger.dials])
    assert len(runs[0]) > 4
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


# ------------------------------------------------------------ leaving normally


async def test_leaving_closes_every_connection_once(autojump_clock: MockClock) -> None:
    """Each connection has been disconnected exactly once when the block has ended."""
    async with open_bench("ab", policy=policy_of(spares_wanted=6)) as bench:
        await bench.pool.wait_ready(6)
    assert len(bench.ledger.closed) == len(bench.ledger.connections) >= 6


async def test_leaving_fails_those_who_wait(autojump_clock: MockClock) -> None:
    """Parked claimants fail at once with `PoolTerminatedError`, whatever the drain takes."""
    ended: list[tuple[float, BaseException]] = []

    async def wait(bench: Bench) -> None:
        with pytest.raises(PoolTerminatedError) as caught:
            await bench.use()
        ended.append((trio.current_time(), caught.value))

    async with open_bench(policy=policy_of(max_slots=1, drain_timeout=7)) as bench:
        bench.nursery.start_soon(bench.use, 5)
        await bench.settle()
        for _ in range(3):
            bench.nursery.start_soon(wait, bench)
        await bench.settle()
        assert bench.stats().waiting == 3
        left = trio.current_time()
    assert [when for when, _ in ended] == [left] * 3
    assert all(isinstance(exc, PoolTerminatedError) and exc.pool == "pool" for _, exc in ended)
    assert trio.current_time() == left + 5


async def test_leaving_waits_for_claims_no_longer_than_the_drain(
    autojump_clock: MockClock,
) -> None:
    """Outstanding claims get ``drain_timeout`` seconds, then they are closed under them."""
    async with open_bench(policy=policy_of(drain_timeout=7)) as bench:
        bench.nursery.start_soon(bench.use, 3)
        bench.nursery.start_soon(bench.use, 100)
        await bench.settle()
        left = trio.current_time()
        bench.nursery.start_soon(self_check_at, left + 6.9, lambda: len(bench.ledger.live) == 1)
    closed = sorted(conn.closed_at or 0 for conn in bench.ledger.connections)
    assert closed[-1] == left + 7
    assert sum(when > left + 3 for when in closed) == 1


async def self_check_at(when: float, check: Callable[[], bool]) -> None:
    """Assert something at a certain time."""
    await trio.sleep_until(when)
    assert check()


async def test_the_drain_ends_with_the_last_claim(autojump_clock: MockClock) -> None:
    """Leaving takes no longer than the last claim does."""
    async with open_bench(policy=policy_of(drain_timeout=1000)) as bench:
        bench.nursery.start_soon(bench.use, 2)
        await bench.settle()
        left = trio.current_time()
    assert trio.current_time() == left + 2


async def test_an_endless_drain(autojump_clock: MockClock) -> None:
    """``drain_timeout=inf`` waits for the last claim, however long it takes."""
    async with open_bench(policy=policy_of(drain_timeout=float("inf"))) as bench:
        bench.nursery.start_soon(bench.use, 10_000)
        await bench.settle()
        left = trio.current_time()
    assert trio.current_time() == left + 10_000


async def test_no_claims_while_draining(autojump_clock: MockClock) -> None:
    """A claim that is made during the drain fails with `PoolTerminatedError` at once."""

    async def late(bench: Bench) -> None:
        await trio.sleep(1)
        before = trio.current_time()
        with pytest.raises(PoolTerminatedError):
            await bench.pool.acquire()
        with pytest.raises(PoolTerminatedError):
            async with bench.pool.claim(timeout=0):
                raise AssertionError("must not be entered")
        with pytest.raises(PoolTerminatedError):
            await bench.pool.wait_ready()
        assert trio.current_time() == before
        late_done.set()

    late_done = trio.Event()
    async with open_bench() as bench:
        bench.nursery.start_soon(bench.use, 3)
        bench.nursery.start_soon(late, bench)
        await bench.settle()
    assert late_done.is_set()


async def test_after_the_end(autojump_clock: MockClock) -> None:
    """After the block, claims fail with `PoolTerminatedError`, and the numbers are zero."""
    async with open_bench() as bench:
        await bench.use()
    with pytest.raises(PoolTerminatedError):
        await bench.pool.acquire()
    with pytest.raises(PoolTerminatedError):
        await bench.pool.wait_ready()
    stats = bench.stats()
    assert (stats.slots, stats.waiting, stats.departed, stats.claims) == (0, 0, 0, 1)


# ------------------------------------------------------------- leaving otherwise


class BodyError(Exception):
    """An exception that the body raises."""


class BodyExit(BaseException):
    """A `BaseException` that the body raises, and that is no `Exception`."""


@pytest.mark.parametrize("kind", [BodyError, BodyExit, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("with_context", [False, True])
async def test_ff38_the_bodys_exception_comes_out_as_it_is(
    autojump_clock: MockClock, kind: type[BaseException], with_context: bool
) -> None:
    """The same object leaves the block, in no group, and with the context it had."""
    connector = LedgerConnector()
    connector.script.always("disconnect", slow(0.5))
    raised = kind("the body's")
    context = LookupError("what it was raised from") if with_context else None
    raised.__context__ = context
    async with trio.open_nursery() as nursery:
        caught: BaseException | None = None
        try:
            async with qorb_trio.open_pool(nursery, ManualSets(backends("ab")), connector) as pool:
                await pool.wait_ready(2)
                raise raised
        except BaseException as exc:
            caught = exc
        assert caught is raised
        assert raised.__context__ is context
        assert raised.__cause__ is None
        assert not connector.ledger.at_the_end()
        assert not nursery.child_tasks


async def test_ff38_a_group_stays_the_group_it_is(autojump_clock: MockClock) -> None:
    """A group that the body raises is neither split nor wrapped."""
    group = ExceptionGroup("mine", [ValueError(1), KeyError(2)])
    async with trio.open_nursery() as nursery:
        with pytest.raises(ExceptionGroup) as caught:
            async with qorb_trio.open_pool(nursery, **good_arguments()):
                raise group
    assert caught.value is group
    assert group.__context__ is None


async def test_leaving_by_an_exception_does_not_drain(autojump_clock: MockClock) -> None:
    """With an exception, claims are cut off at once, and those who wait fail."""
    policy = policy_of(max_slots=1, drain_timeout=100)
    raised = BodyError()
    waited: list[BaseException] = []

    async def wait(bench: Bench) -> None:
        with pytest.raises(PoolTerminatedError) as caught:
            await bench.use()
        waited.append(caught.value)

    async def hold(bench: Bench) -> None:
        claim = await bench.acquire()
        with trio.CancelScope(shield=True):
            await trio.sleep(3)
        bench.release(claim)

    before = trio.current_time()
    with pytest.raises(BodyError) as caught:
        async with open_bench(policy=policy) as bench:
            bench.nursery.start_soon(hold, bench)
            await bench.settle()
            bench.nursery.start_soon(wait, bench)
            await bench.settle()
            raise raised
    assert caught.value is raised
    assert waited
    assert [conn.closed_at for conn in bench.ledger.connections] == [before]


async def test_leaving_by_cancellation_closes_everything(autojump_clock: MockClock) -> None:
    """A cancelled block closes every connection, shielded, and does not drain."""
    connector = LedgerConnector()
    connector.script.always("disconnect", slow(0.5))
    policy = policy_of(drain_timeout=100)
    with trio.CancelScope() as scope:
        async with open_bench("ab", policy=policy, connector=connector) as bench:
            await bench.pool.wait_ready(4)
            claim = await bench.acquire()
            left = trio.current_time()
            scope.cancel()
            await trio.sleep(1)
    assert scope.cancelled_caught
    assert trio.current_time() == left + 0.5
    assert not any(conn.forced for conn in connector.ledger.connections)
    claim.release()


async def test_closing_is_concurrent(autojump_clock: MockClock) -> None:
    """Closing sixteen connections takes as long as closing one."""
    connector = LedgerConnector()
    connector.script.always("disconnect", slow(0.9))
    async with open_bench("abcd", policy=policy_of(spares_wanted=16), connector=connector) as bench:
        await bench.pool.wait_ready(16)
        left = trio.current_time()
    assert trio.current_time() == pytest.approx(left + 0.9)


async def test_closing_is_bounded(autojump_clock: MockClock) -> None:
    """A disconnect that hangs is cancelled after ``disconnect_timeout``."""
    connector = LedgerConnector()
    connector.script.always("disconnect", HANG)
    policy = policy_of(disconnect_timeout=2)
    async with open_bench("ab", policy=policy, connector=connector) as bench:
        await bench.pool.wait_ready(4)
        left = trio.current_time()
    assert trio.current_time() == left + 2
    assert all(conn.forced for conn in connector.ledger.connections)


async def test_closing_is_forced_at_once_if_so_wished(autojump_clock: MockClock) -> None:
    """``disconnect_timeout=0`` calls every disconnect, but waits for none."""
    connector = LedgerConnector()
    connector.script.always("disconnect", HANG)
    async with open_bench(
        "ab", policy=policy_of(disconnect_timeout=0), connector=connector
    ) as bench:
        await bench.pool.wait_ready(4)
        left = trio.current_time()
    assert trio.current_time() == left


@pytest.mark.parametrize("leave", ["normally", "raising"])
async def test_ff36_a_dial_that_ends_after_the_close(autojump_clock: MockClock, leave: str) -> None:
    """A dial that ignores its cancellation and succeeds late is closed, not pooled."""
    connector = LedgerConnector()
    connector.script.always("connect", Do(delay=5, shielded=True))
    try:
        async with open_bench(connector=connector) as bench:
            await bench.settle(1)
            if leave == "raising":
                raise BodyError
    except BodyError:
        assert leave == "raising"
    ledger = connector.ledger
    assert len(ledger.closed) == len(ledger.connections) > 0


# -------------------------------------------------------------------- crashes


class FailingResolver(Resolver):
    """A resolver that has a bug."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    async def run(self, updates: trio.MemorySendChannel[Collection[Backend]]) -> None:
        await updates.send(backends("a"))
        await trio.sleep(1)
        raise self.error


@pytest.mark.parametrize("error", [LookupError("a bug"), KeyboardInterrupt("ctrl-c")])
async def test_a_resolver_that_raises_crashes_into_the_nursery(
    autojump_clock: MockClock, error: BaseException
) -> None:
    """A resolver's exception comes out of the caller's nursery, and everything is closed."""
    connector = LedgerConnector()
    leaves: list[BaseException] = []
    try:
        async with (
            trio.open_nursery() as nursery,
            qorb_trio.open_pool(nursery, FailingResolver(error), connector) as pool,
        ):
            await pool.wait_ready()
            await trio.sleep_forever()
    except BaseException as exc:
        leaves = list(leaves_of(exc))
    assert leaves == [error]
    assert connector.ledger.connections
    assert not connector.ledger.at_the_end()


def leaves_of(exc: BaseException) -> list[BaseException]:
    """The exceptions in a group of groups."""
    if isinstance(exc, BaseExceptionGroup):
        return [leaf for one in exc.exceptions for leaf in leaves_of(one)]
    return [exc]


class EndingResolver(Resolver):
    """A resolver that finds its backends once."""

    async def run(self, updates: trio.MemorySendChannel[Collection[Backend]]) -> None:
        await updates.send(backends("ab"))


async def test_a_resolver_that_returns(autojump_clock: MockClock) -> None:
    """The pool goes on with the last set of a resolver that has returned."""
    connector = LedgerConnector()
    async with (
        trio.open_nursery() as nursery,
        qorb_trio.open_pool(nursery, EndingResolver(), connector) as pool,
    ):
        await trio.sleep(1000)
        async with pool.claim() as conn:
            assert conn.backend in backends("ab")
        assert set(pool.stats().backends) == {"a", "b"}
    assert not connector.ledger.at_the_end()


# ------------------------------------------------------------------ terminate


@pytest.mark.parametrize("method", ["terminate", "aclose"])
async def test_terminate_does_early_what_leaving_does(
    autojump_clock: MockClock, method: str
) -> None:
    """`terminate` drains and closes; a second call, and leaving the block, do nothing."""
    async with open_bench(policy=policy_of(drain_timeout=7)) as bench:
        bench.nursery.start_soon(bench.use, 3)
        await bench.settle()
        bench.ledger.hold_until = trio.current_time() + 7
        before = trio.current_time()
        await getattr(bench.pool, method)()
        assert trio.current_time() == before + 3
        assert not bench.ledger.at_the_end()
        with pytest.raises(PoolTerminatedError):
            await bench.pool.acquire()
        await bench.pool.terminate()
        await bench.pool.aclose()
        assert trio.current_time() == before + 3
    assert trio.current_time() == before + 3


async def test_two_tasks_terminate(autojump_clock: MockClock) -> None:
    """Two tasks can terminate a pool: each connection is closed once, and both calls return."""
    connector = LedgerConnector()
    connector.script.always("disconnect", slow(0.5))
    async with open_bench("ab", connector=connector) as bench:
        await bench.pool.wait_ready(2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.terminate)
            nursery.start_soon(bench.terminate)
            await wait_all_tasks_blocked()
            await bench.terminate()
        assert not bench.ledger.live


async def test_wait_ready(autojump_clock: MockClock) -> None:
    """`wait_ready` returns when that many slots are connected, and not before."""
    connector = LedgerConnector()
    connector.script.next("connect", slow(1), slow(2), slow(3))
    connector.script.always("connect", slow(50))
    before = trio.current_time()
    async with open_bench(connector=connector) as bench:
        await bench.pool.wait_ready()
        assert trio.current_time() == before + 1
        await bench.pool.wait_ready(3)
        assert trio.current_time() == before + 3
        await bench.pool.wait_ready(2)
        assert trio.current_time() == before + 3
        async with bench.claim():
            await bench.pool.wait_ready(3)
        assert trio.current_time() == before + 3


async def test_wait_ready_ends_with_the_pool(autojump_clock: MockClock) -> None:
    """`wait_ready` fails with `PoolTerminatedError` when the pool ends first."""
    failed: list[PoolTerminatedError] = []

    async def wait(bench: Bench) -> None:
        with pytest.raises(PoolTerminatedError) as caught:
            await bench.pool.wait_ready()
        failed.append(caught.value)

    async with open_bench(None) as bench:
        bench.nursery.start_soon(wait, bench)
        await bench.settle()
    assert [exc.pool for exc in failed] == ["pool"]


@pytest.mark.parametrize("slots", [True, "1", 1.5, None])
async def test_wait_ready_takes_a_count(autojump_clock: MockClock, slots: Any) -> None:
    """A wrong count is a `TypeError` that names it."""
    async with open_bench() as bench:
        with pytest.raises(TypeError, match="slots"):
            await bench.pool.wait_ready(slots)


async def test_wait_ready_is_a_checkpoint(autojump_clock: MockClock) -> None:
    """`wait_ready` is a checkpoint even when the slots are there."""
    async with open_bench() as bench:
        await bench.pool.wait_ready()
        with trio.testing.assert_checkpoints():
            await bench.pool.wait_ready()
