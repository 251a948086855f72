"""Lines of the list of field faults that concern a whole pool: logs, causes, contexts.

The letter and the number of a name are the kind of the fault and its line there.
"""

from __future__ import annotations

import contextvars
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qorb_trio import (
    Backend,
    FixedResolver,
    NoBackendsOnlineError,
    Policy,
    Pool,
    PoolTerminatedError,
    Resolver,
    SetConfig,
    open_pool,
)
from qorb_trio.testing import (
    FakeConnection,
    FakeConnector,
    HookedFakeConnector,
    RecordingInstrument,
)


@asynccontextmanager
async def a_pool(
    connector: FakeConnector, policy: Policy | None = None, *, backends: int = 1
) -> AsyncIterator[Pool[FakeConnection]]:
    """Open a pool of some backends, and wait until it has a connection."""
    resolver = FixedResolver([("a.test", 1 + number) for number in range(backends)])
    async with trio.open_nursery() as nursery:
        async with open_pool(
            nursery, resolver, connector, policy=policy or Policy(spares_wanted=2)
        ) as pool:
            await pool.wait_ready()
            yield pool


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines of the log from WARNING on."""
    return [it.getMessage() for it in caplog.records if it.levelno >= logging.WARNING]


async def test_ff_a7_a_discarded_probe_is_followed_by_the_next(autojump_clock: MockClock) -> None:
    """A probe that is claimed and discarded does not keep the next claimant waiting."""
    connector = FakeConnector()
    policy = Policy(spares_wanted=1, max_slots=4, set_config=SetConfig(max_connection_backoff=0.5))
    async with a_pool(connector, policy) as pool:
        connector.crash("a.test:1")
        with pytest.raises(NoBackendsOnlineError):
            await pool.acquire(timeout=1)
        connector.heal("a.test:1")
        (await pool.acquire(timeout=5)).discard()
        begin = trio.current_time()
        (await pool.acquire(timeout=5)).release()
        assert trio.current_time() - begin <= 0.5


async def test_ff_d5_each_claim_that_is_cut_off_is_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A claim that outlives `drain_timeout` has a WARNING with its holder, backend and age."""

    async def hold(pool: Pool[FakeConnection], label: str | None) -> None:
        async with pool.claim(label=label):
            await trio.sleep(100)

    policy = Policy(spares_wanted=2, drain_timeout=3)
    async with trio.open_nursery() as holders:
        async with a_pool(FakeConnector(), policy) as pool:
            holders.start_soon(hold, pool, "the report")
            holders.start_soon(hold, pool, None)
            await wait_all_tasks_blocked()
            await trio.sleep(7)
        holders.cancel_scope.cancel()
    cut = sorted(line for line in warnings_of(caplog) if "cut off" in line)
    assert len(cut) == 2
    assert re.search(r"the report on backend a.test:1 is cut off after 10 s", cut[1])
    assert re.search(r"task .*hold on backend a.test:1 is cut off after 10 s", cut[0])


async def test_ff_d6_the_frames_of_a_holder_begin_with_the_users_code(
    autojump_clock: MockClock,
) -> None:
    """The innermost frames of a holder's stack are the user's, not Trio's."""

    async def work_of_the_user(pool: Pool[FakeConnection]) -> None:
        async with pool.claim(label="the label"):
            await trio.sleep(10)

    async with a_pool(FakeConnector()) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(work_of_the_user, pool)
        await wait_all_tasks_blocked()
        (holder,) = pool.holders()
        assert "the label" in holder.task
        stack = "".join(holder.stack().format())
        assert "work_of_the_user" in stack
        assert "/trio/_" not in stack
        nursery.cancel_scope.cancel()


async def test_ff_d7_logging_and_reprs_that_raise_do_not_end_a_pool(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a filter that raises on every logger, a pool works through an outage and its end."""

    class Rude(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise ZeroDivisionError("a bug in a filter")

    rude = Rude()
    names = ("pool", "backend", "claim", "connector", "instrument", "resolver")
    loggers = [logging.getLogger(f"qorb_trio.{name}") for name in names]
    connector = FakeConnector()
    for logger in loggers:
        logger.addFilter(rude)
    try:
        policy = Policy(spares_wanted=1, drain_timeout=0)
        async with trio.open_nursery() as holders:
            async with a_pool(connector, policy) as pool:
                connector.crash("a.test:1")
                await trio.sleep(20)
                connector.heal("a.test:1")
                async with pool.claim(timeout=40):
                    pass
                held = await pool.acquire()
            held.release()
            holders.cancel_scope.cancel()
    finally:
        for logger in loggers:
            logger.removeFilter(rude)
    assert "a bug in a filter" in capsys.readouterr().err


class Crashing(Resolver):
    """A resolver that crashes when it is told to."""

    def __init__(self) -> None:
        self.now = trio.Event()

    async def run(self, updates: trio.MemorySendChannel[Any]) -> None:
        """Send one backend, and crash later."""
        await updates.send([Backend(("a.test", 1))])
        await self.now.wait()
        raise ZeroDivisionError("a bug in the resolver")


async def test_ff_d8_the_cause_of_the_end_is_the_crash(autojump_clock: MockClock) -> None:
    """After a resolver's crash, `PoolTerminatedError.__cause__` is that exception."""
    caught: list[BaseException | None] = []
    resolver = Crashing()
    with pytest.RaisesGroup(pytest.RaisesExc(ZeroDivisionError), allow_unwrapped=True):
        async with trio.open_nursery() as nursery:
            policy = Policy(max_slots=1, spares_wanted=1)
            async with open_pool(nursery, resolver, FakeConnector(), policy=policy) as pool:
                held = await pool.acquire()
                resolver.now.set()
                try:
                    await pool.acquire()
                except PoolTerminatedError as error:
                    caught.append(error.__cause__)
                finally:
                    held.release()
    assert [type(it) for it in caught] == [ZeroDivisionError]


class FatalError(BaseException):
    """Nothing that a hook should raise."""


@pytest.mark.parametrize(("slots", "crashing"), [(1, 1), (2, 1), (2, 2)])
async def test_ff_d8_the_crash_of_a_dial_is_told_at_once(
    slots: int, crashing: int, autojump_clock: MockClock
) -> None:
    """A claimant that waits is told of a dial's crash while another dial of its backend goes on."""

    class Fragile(FakeConnector):
        number = 0

        async def connect(self, backend: Backend) -> FakeConnection:
            self.number += 1
            if self.number == crashing:
                await trio.sleep(0.1)
                raise FatalError
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
            return await super().connect(backend)

    causes: list[tuple[type | None, float]] = []
    resolver = FixedResolver([("a.test", 1)])
    policy = Policy(max_slots=slots, spares_wanted=slots)
    began = trio.current_time()
    with pytest.RaisesGroup(FatalError):
        async with trio.open_nursery() as nursery:
            async with open_pool(nursery, resolver, Fragile(), policy=policy) as pool:
                with pytest.raises(PoolTerminatedError) as info:
                    await pool.acquire()
                seconds = round(trio.current_time() - began, 3)
                causes.append((type(info.value.__cause__), seconds))
    assert causes == [(FatalError, 0.1)]


async def test_ff_g3_a_failover_does_not_wait_for_the_back_off(autojump_clock: MockClock) -> None:
    """A backend that was down long ago is tried within a second of the last online one's death."""
    connector = FakeConnector()
    async with a_pool(connector, backends=2) as pool:
        connector.crash("a.test:1")
        await trio.sleep(300)
        connector.heal("a.test:1")
        connector.crash("a.test:2")
        begin = trio.current_time()
        async with pool.claim(timeout=60) as connection:
            assert connection.backend.port == 1
        assert trio.current_time() - begin <= 1.1


async def test_ff_j4_a_should_recycle_without_return_is_said_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A `should_recycle` that returns None closes connections, with one line in all."""

    class Forgetful(FakeConnector):
        def should_recycle(self, conn: FakeConnection, exc: BaseException | None) -> bool:
            return None  # type: ignore[return-value]

    async with a_pool(Forgetful()) as pool:
        used = set()
        for _ in range(3):
            async with pool.claim() as connection:
                used.add(connection)
        assert len(used) == 3
    said = [line for line in warnings_of(caplog) if "should_recycle" in line]
    assert said == [
        "connector: should_recycle returned None instead of a bool; such a connection is closed"
    ]


async def test_ff_j4_what_is_no_instrument_is_refused(autojump_clock: MockClock) -> None:
    """An object that is no `Instrument` is a TypeError that says so."""
    async with a_pool(FakeConnector()) as pool:
        with pytest.raises(TypeError, match="must be an Instrument"):
            pool.add_instrument(object())  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="must be an Instrument"):
            pool.add_instrument(RecordingInstrument)  # type: ignore[arg-type]


TENANT: contextvars.ContextVar[str] = contextvars.ContextVar("TENANT", default="nobody")


async def test_ff_j7_hooks_run_in_the_context_of_the_pool(autojump_clock: MockClock) -> None:
    """`on_recycle` and `disconnect` do not see the context variables of the last claimant."""
    seen: dict[str, set[str]] = {"on_recycle": set(), "disconnect": set()}

    class Curious(HookedFakeConnector):
        async def on_recycle(self, conn: FakeConnection) -> None:
            seen["on_recycle"].add(TENANT.get())
            await super().on_recycle(conn)

        async def disconnect(self, conn: FakeConnection) -> None:
            seen["disconnect"].add(TENANT.get())
            await super().disconnect(conn)

    async def claim(pool: Pool[FakeConnection], *, keep: bool) -> None:
        TENANT.set("a claimant")
        claimed = await pool.acquire()
        await trio.sleep(0.5)  # what begins together with a dial would run beside it
        claimed.release() if keep else claimed.discard()

    TENANT.set("the pool")
    async with a_pool(Curious()) as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: claim(pool, keep=True))
            nursery.start_soon(lambda: claim(pool, keep=False))
        await trio.sleep(1)  # the end of the pool would cut the cleaning short
    assert seen == {"on_recycle": {"the pool"}, "disconnect": {"the pool"}}


@pytest.mark.parametrize("slots", [1, 2])
async def test_ff_j7_hooks_do_not_see_each_others_context(
    slots: int, autojump_clock: MockClock
) -> None:
    """A context variable that `connect` sets is not seen by other dials and hooks."""
    seen: list[str] = []

    class Curious(HookedFakeConnector):
        async def connect(self, backend: Backend) -> FakeConnection:
            seen.append(TENANT.get())
            TENANT.set("a dial")
            return await super().connect(backend)

        async def on_recycle(self, conn: FakeConnection) -> None:
            seen.append(TENANT.get())
            await super().on_recycle(conn)

    TENANT.set("the pool")
    policy = Policy(max_slots=slots, spares_wanted=slots)
    async with a_pool(Curious(connect_delay=0.1), policy) as pool:
        async with pool.claim():
            pass
        await trio.sleep(1)
    assert seen == ["the pool"] * (slots + 1)
