"""Exceptions: whose they are, where they come out, and that the accounts still balance."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import qorb_trio
from qorb_trio import ClaimTimeoutError, PoolTerminatedError

from ..harness import (
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


class BodyError(Exception):
    """An exception that the body of a claim raises."""


class Exit(BaseException):
    """A `BaseException` that is no `Exception`."""


# ---------------------------------------------------------------- the body's own


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("raised", [BodyError, Exit, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("with_context", [False, True])
async def test_ff38_the_body_of_a_claim(
    autojump_clock: MockClock,
    kind: type[PlainLedgerConnector],
    raised: type[BaseException],
    with_context: bool,
) -> None:
    """An exception of a claim's body comes out as the same object, in no group."""
    exc = raised("the body's")
    context = LookupError() if with_context else None
    exc.__context__ = context
    async with open_bench(connector=kind(), policy=policy_of(max_slots=1)) as bench:
        caught: BaseException | None = None
        try:
            async with bench.pool.claim():
                raise exc
        except BaseException as other:
            caught = other
        assert caught is exc
        assert exc.__context__ is context
        assert exc.__cause__ is None
        assert bench.count("claimed") == 0


async def test_ff39_under_a_cancelled_scope(autojump_clock: MockClock) -> None:
    """A body that raises under a cancelled scope has its own exception come out."""
    exc = BodyError()
    async with open_bench() as bench:
        with trio.CancelScope() as scope:
            with pytest.raises(BodyError) as caught:
                async with bench.pool.claim():
                    scope.cancel()
                    raise exc
            assert caught.value is exc
        assert not scope.cancelled_caught


async def test_ff39_the_pools_block_under_a_cancelled_scope(autojump_clock: MockClock) -> None:
    """A pool's body that raises under a cancelled scope has its own exception come out."""
    exc = BodyError()
    connector = LedgerConnector()
    connector.script.always("disconnect", slow(0.5))
    with trio.CancelScope() as scope:
        nursery_manager = trio.open_nursery()
        nursery = await nursery_manager.__aenter__()
        caught: BaseException | None = None
        try:
            async with qorb_trio.open_pool(nursery, ManualSets(backends("a")), connector) as pool:
                await pool.wait_ready(2)
                scope.cancel()
                raise exc
        except BaseException as other:
            caught = other
        await nursery_manager.__aexit__(None, None, None)
    assert caught is exc
    assert exc.__context__ is None
    assert not connector.ledger.at_the_end()


async def test_ff39_a_normal_end_under_a_cancelled_scope(autojump_clock: MockClock) -> None:
    """Leaving a claim normally under a cancelled scope recycles, and raises nothing."""
    async with open_bench(policy=policy_of(max_slots=1)) as bench:
        with trio.CancelScope() as scope:
            async with bench.claim() as conn:
                scope.cancel()
            assert bench.count("claimed") == 0
        assert not scope.cancelled_caught
        await bench.settle()
        assert bench.ledger.idle == [conn]


# ------------------------------------------------------------------- the hooks'

EXCEPTIONS = [
    pytest.param(lambda: OSError("no"), id="Exception"),
    pytest.param(lambda: ExceptionGroup("some", [OSError(), ValueError()]), id="ExceptionGroup"),
    pytest.param(lambda: AssertionError("a bug"), id="AssertionError"),
    pytest.param(trio.TooSlowError, id="TooSlowError"),
    pytest.param(StopAsyncIteration, id="StopAsyncIteration"),
    pytest.param(
        lambda: BaseExceptionGroup("all of them Exceptions", [KeyError()]), id="BaseGroupOfThem"
    ),
]
FATAL = [
    pytest.param(lambda: Exit("stop"), id="BaseException"),
    pytest.param(KeyboardInterrupt, id="KeyboardInterrupt"),
    pytest.param(lambda: SystemExit(3), id="SystemExit"),
    pytest.param(lambda: BaseExceptionGroup("g", [OSError(), Exit()]), id="BaseExceptionGroup"),
]
ASYNC_HOOKS = ["connect", "is_valid", "on_acquire", "on_recycle", "disconnect"]

QUICK = policy_of(max_slots=2, spares_wanted=2, health_interval=5, max_connection_backoff=1)


@pytest.mark.parametrize("after", [0, 0.1])
@pytest.mark.parametrize("hook", ASYNC_HOOKS)
@pytest.mark.parametrize("make", EXCEPTIONS)
async def test_ff40_an_exception_in_a_hook_is_the_connections_own(
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    hook: Any,
    make: Any,
    after: float,
) -> None:
    """A hook's exception is logged, counted and kept as ``last_error``, and the pool goes on."""
    caplog.set_level(logging.DEBUG, logger="qorb_trio")
    error = make()
    async with open_bench(policy=QUICK) as bench:
        bench.script.next(hook, fails(error, after=after))
        await bench.pool.wait_ready(2)
        await bench.use(timeout=20)
        if hook == "disconnect":
            (await bench.pool.acquire()).discard()
        await bench.settle(8)
        assert bench.ledger.calls[hook] >= 1
        (stats,) = bench.stats().backends.values()
        assert stats.last_error is error
        assert stats.failures == 1
        assert stats.unclaimed == 2
        await bench.use(timeout=20)
    records = [record for record in caplog.records if record.name.startswith("qorb_trio")]
    told = [it.getMessage() for it in records if it.levelname == "WARNING"]
    assert any(type(error).__name__ in text and str(error) in text for text in told)
    assert any(it.exc_info and it.exc_info[1] is error for it in records)


@pytest.mark.parametrize("hook", ["connect", "is_valid", "on_recycle", "disconnect"])
@pytest.mark.parametrize("make", FATAL)
async def test_ff40_what_is_no_exception_crashes_into_the_nursery(
    autojump_clock: MockClock, hook: Any, make: Any
) -> None:
    """A hook's fatal exception leaves the caller's nursery; each connection is closed once."""
    fatal = make()
    connector = LedgerConnector()
    connector.script.next("connect", OK)
    connector.script.next(hook, fails(fatal))
    caught: list[BaseException] = []
    with trio.fail_after(100):
        try:
            async with (
                trio.open_nursery() as nursery,
                qorb_trio.open_pool(
                    nursery, ManualSets(backends("a")), connector, policy=QUICK
                ) as pool,
            ):
                claim = await pool.acquire()
                claim.release()
                await trio.sleep(1)
                (await pool.acquire()).discard()
                await trio.sleep(20)
        except BaseException as exc:
            caught = leaves_of(exc)
    # A claimant may hear that the pool ends before it hears of the crash.
    crash = [type(one) for one in caught if not isinstance(one, PoolTerminatedError)]
    assert crash == [type(one) for one in leaves_of(fatal)]
    assert connector.ledger.connections
    assert not connector.ledger.at_the_end()
    assert not connector.ledger.violations


def leaves_of(exc: BaseException) -> list[BaseException]:
    """The exceptions in a group of groups."""
    if isinstance(exc, BaseExceptionGroup):
        return [leaf for one in exc.exceptions for leaf in leaves_of(one)]
    return [exc]


@pytest.mark.parametrize("after", [0, 0.1])
@pytest.mark.parametrize("make", FATAL)
async def test_ff40_on_acquire_belongs_to_the_claimant(
    autojump_clock: MockClock, make: Any, after: float
) -> None:
    """A fatal exception of ``on_acquire`` reaches the claimant, and the slot is not lost."""
    fatal = make()
    async with open_bench(policy=policy_of(max_slots=1)) as bench:
        await bench.pool.wait_ready()
        bench.script.next("on_acquire", fails(fatal, after=after))
        caught: BaseException | None = None
        try:
            await bench.use()
        except BaseException as exc:
            caught = exc
        assert caught is fatal
        await bench.settle()
        assert bench.count("claimed") == 0
        assert bench.ledger.connections[0].closes == 1
        await bench.use(timeout=5)


@pytest.mark.parametrize("make", EXCEPTIONS)
@pytest.mark.parametrize("body", [None, BodyError()])
async def test_ff40_should_recycle_raises(
    autojump_clock: MockClock, make: Any, body: BaseException | None
) -> None:
    """A connection that cannot be judged is closed; the body's exception comes out alone."""
    error = make()

    def rule(conn: LedgerConnection, exc: BaseException | None) -> bool:
        raise error

    async with open_bench(policy=policy_of(max_slots=1)) as bench:
        bench.connector.recycle_rule = rule
        caught = None
        try:
            async with bench.claim():
                if body is not None:
                    raise body
        except Exception as exc:
            caught = exc
        assert caught is body
        await bench.settle()
        assert bench.ledger.connections[0].closes == 1
        (stats,) = bench.stats().backends.values()
        assert stats.last_error is error
        bench.connector.recycle_rule = None
        await bench.use(timeout=5)


@pytest.mark.parametrize("hook", ["should_recycle", "is_broken"])
@pytest.mark.parametrize("make", FATAL)
async def test_ff40_a_fatal_error_at_release(
    autojump_clock: MockClock, hook: str, make: Any
) -> None:
    """Even then the connection is closed, and the slot comes back."""
    fatal = make()

    def broken(conn: LedgerConnection) -> bool:
        if conn.number == 1 and conn.needs_recycle:
            raise fatal
        return False

    def rule(conn: LedgerConnection, exc: BaseException | None) -> bool:
        if conn.number == 1:
            raise fatal
        return exc is None

    async with open_bench(policy=policy_of(max_slots=1)) as bench:
        if hook == "is_broken":
            bench.connector.broken_rule = broken
        else:
            bench.connector.recycle_rule = rule
        claim = await bench.acquire()
        caught: BaseException | None = None
        try:
            bench.release(claim)
        except BaseException as exc:
            caught = exc
        assert caught is fatal
        await bench.settle()
        assert bench.count("claimed") == 0
        assert bench.ledger.connections[0].closes == 1
        await bench.use(timeout=5)


@pytest.mark.parametrize("make", FATAL)
async def test_ff40_a_fatal_error_at_hand_out(autojump_clock: MockClock, make: Any) -> None:
    """A fatal ``is_broken`` reaches the claimant, and the slot is not lost."""
    fatal = make()

    def broken(conn: LedgerConnection) -> bool:
        if conn.number == 1:
            raise fatal
        return False

    async with open_bench(policy=policy_of(max_slots=1)) as bench:
        await bench.pool.wait_ready()
        bench.connector.broken_rule = broken
        caught: BaseException | None = None
        try:
            await bench.use()
        except BaseException as exc:
            caught = exc
        assert caught is fatal
        await bench.settle()
        assert bench.count("claimed") == 0
        await bench.use(timeout=5)


async def test_ff40_many_failures_at_once(autojump_clock: MockClock) -> None:
    """With every hook failing every third time, claims are served and nothing is lost."""
    async with open_bench("abc", policy=policy_of(max_slots=6, health_interval=1)) as bench:
        for hook in ("connect", "is_valid", "on_acquire", "on_recycle", "disconnect"):
            bench.script.next(hook, *[OK, OK, fails(OSError)] * 100)
        served = 0

        async def client() -> None:
            nonlocal served
            for _ in range(10):
                try:
                    await bench.use(0.5, timeout=30)
                except ClaimTimeoutError:
                    continue
                served += 1

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(client)
        assert served == 100


# ---------------------------------------------------------------- after the end


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["release", "discard"])
@pytest.mark.parametrize("leave", ["normally", "raising"])
async def test_ff41_release_after_the_end(
    autojump_clock: MockClock, kind: type[PlainLedgerConnector], how: str, leave: str
) -> None:
    """Giving back to a pool that has ended does nothing, and hides no error."""
    error = BodyError()
    claim = None
    caught: BaseException | None = None
    connector = kind()
    try:
        async with open_bench(connector=connector, policy=policy_of(drain_timeout=1)) as bench:
            claim = await bench.pool.acquire()
            if leave == "raising":
                raise error
    except BodyError as exc:
        caught = exc
    assert caught is (error if leave == "raising" else None)
    assert claim is not None
    getattr(claim, how)()
    assert connector.ledger.connections[0].closes == 1
    with pytest.raises(RuntimeError):
        claim.release()


async def test_ff41_a_body_that_outlives_its_pool(autojump_clock: MockClock) -> None:
    """A claim's body that ends after the pool has its own exception come out."""
    error = BodyError()
    caught: list[BaseException] = []

    async def client(bench: Bench) -> None:
        try:
            async with bench.pool.claim():
                await trio.sleep(20)
                raise error
        except Exception as exc:
            caught.append(exc)

    async with open_bench(policy=policy_of(drain_timeout=1)) as bench:
        bench.nursery.start_soon(client, bench)
        await bench.settle()
    assert caught == [error]
    assert error.__context__ is None


async def test_ff41_on_acquire_outlives_the_pool(autojump_clock: MockClock) -> None:
    """A claimant whose pool ends inside ``on_acquire`` gets `PoolTerminatedError`."""
    policy = policy_of(drain_timeout=2, health_check_timeout=60)
    caught: list[BaseException] = []
    async with open_bench(policy=policy) as bench:
        await bench.pool.wait_ready()
        bench.script.always("on_acquire", Do(delay=30))

        async def client() -> None:
            with pytest.raises(PoolTerminatedError) as raised:
                await bench.use()
            caught.append(raised.value)

        bench.nursery.start_soon(client)
        await bench.settle()
    assert len(caught) == 1
