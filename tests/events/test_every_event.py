"""`qorb_trio.abc.Instrument`: every event fires, with the arguments that it promises."""

from __future__ import annotations

import inspect
import logging
import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import qorb_trio
from qorb_trio import (
    AllClaimsUsedError,
    Backend,
    ClaimTimeoutError,
    Instrument,
    NoBackendsError,
    PoolTerminatedError,
)
from qorb_trio._events import emitter

from ..harness import (
    EVENTS,
    HANG,
    Bench,
    Do,
    EventLog,
    Hook,
    LedgerConnector,
    backends,
    fails,
    open_bench,
    policy_of,
    slow,
)

STATES = {"connecting", "unclaimed", "checking", "claimed", "closing", "closed"}
ONE = policy_of(max_slots=1, spares_wanted=1, health_interval=10)
TROUBLED: tuple[Hook, ...] = ("connect", "is_valid", "on_recycle", "on_acquire")
(A,) = backends("a")


def story(log: EventLog, *names: str) -> list[str]:
    """The names of the events, of those that are asked for."""
    return [name for name, _ in log.events if name in names]


CLAIM = ("claim_start", "handle_claimed", "claim_done", "claim_failed", "claim_acquire_failed")
BACK = ("handle_returned", "recycle_start", "recycle_done", "recycle_failed")
DIAL = ("connect_start", "connect_done", "connect_failed")
CHECK = ("health_check_start", "health_check_done", "health_check_failed")
ONLINE = ("slot_set_online", "slot_set_offline", "backend_added", "backend_removed")


async def test_a_claim(autojump_clock: MockClock) -> None:
    """A claim starts, takes a handle, is done, returns the handle, and is recycled."""
    async with open_bench(policy=ONE) as bench:
        await bench.pool.wait_ready()
        await bench.use()
        await bench.settle()
        assert story(bench.log, *CLAIM, *BACK) == [
            "claim_start",
            "handle_claimed",
            "claim_done",
            "handle_returned",
            "recycle_start",
            "recycle_done",
        ]
        (start,) = bench.log.of("claim_start")
        pool, claim = start
        ((_, slot, backend),) = bench.log.of("connect_done")
        assert (pool, backend) == ("pool", A)
        assert bench.log.of("handle_claimed") == [("pool", claim, slot, A)]
        assert bench.log.of("claim_done") == [("pool", claim, slot)]
        assert bench.log.of("handle_returned") == [("pool", slot)]
        assert bench.log.of("recycle_start") == [("pool", slot, A)]
        assert bench.log.of("recycle_done") == [("pool", slot)]


async def test_claim_ids_are_unique(autojump_clock: MockClock) -> None:
    """Claims have numbers that grow with the order of their arrival."""
    async with open_bench() as bench:
        for _ in range(5):
            await bench.use()
        numbers = [claim for _, claim in bench.log.of("claim_start")]
        assert numbers == sorted(set(numbers))
        assert all(isinstance(number, int) for number in numbers)


async def test_failed_claims(autojump_clock: MockClock) -> None:
    """A claim that fails tells the very exception that it ends with."""
    async with open_bench(policy=ONE) as bench:
        async with bench.claim():
            with pytest.raises(AllClaimsUsedError) as caught:
                await bench.use(timeout=1)
            with trio.move_on_after(1) as scope:
                await bench.use()
            assert scope.cancelled_caught
        (one, two) = bench.log.of("claim_failed")
        starts = [claim for _, claim in bench.log.of("claim_start")]
        assert one == ("pool", starts[1], caught.value)
        assert two[:2] == ("pool", starts[2])
        assert isinstance(two[2], trio.Cancelled)


async def test_claims_that_fail_at_once(autojump_clock: MockClock) -> None:
    """Claims that fail without waiting have a start and a failure too."""
    async with open_bench(None) as bench:
        with pytest.raises(NoBackendsError):
            await bench.use(timeout=0)
    with pytest.raises(PoolTerminatedError):
        await bench.pool.acquire()
    reasons = [type(reason) for _, _, reason in bench.log.of("claim_failed")]
    assert reasons[0] is NoBackendsError
    assert set(reasons[1:]) <= {PoolTerminatedError}


async def test_a_failed_on_acquire(autojump_clock: MockClock) -> None:
    """A failed ``on_acquire`` is told with its reason, and the claim goes on."""
    error = OSError("no")
    async with open_bench(policy=ONE) as bench:
        await bench.pool.wait_ready()
        bench.script.next("on_acquire", fails(error))
        await bench.use()
        assert story(bench.log, *CLAIM) == [
            "claim_start",
            "handle_claimed",
            "claim_acquire_failed",
            "handle_claimed",
            "claim_done",
        ]
        ((pool, claim, slot, reason),) = bench.log.of("claim_acquire_failed")
        assert (pool, reason) == ("pool", error)
        assert bench.log.of("claim_start") == [("pool", claim)]
        assert bench.log.of("handle_claimed")[0] == ("pool", claim, slot, A)


async def test_an_on_acquire_that_hangs(autojump_clock: MockClock) -> None:
    """An ``on_acquire`` that hangs is told as failed."""
    async with open_bench(policy=ONE) as bench:
        await bench.pool.wait_ready()
        bench.script.next("on_acquire", HANG)
        await bench.use(timeout=20)
        ((_, _, _, reason),) = bench.log.of("claim_acquire_failed")
        assert isinstance(reason, Exception)


async def test_dials(autojump_clock: MockClock) -> None:
    """Each dial starts, and is done or has failed; the numbers of slots are unique."""
    error = OSError("no")
    connector = LedgerConnector()
    connector.script.next("connect", fails(error), HANG)
    policy = policy_of(max_slots=1, spares_wanted=1, connect_timeout=2)
    async with open_bench(connector=connector, policy=policy) as bench:
        await bench.pool.wait_ready()
        assert story(bench.log, *DIAL) == [
            "connect_start",
            "connect_failed",
            "connect_start",
            "connect_failed",
            "connect_start",
            "connect_done",
        ]
        for pool, slot, backend in bench.log.of("connect_start"):
            assert (pool, backend) == ("pool", A)
            assert isinstance(slot, int)
        (one, two) = bench.log.of("connect_failed")
        assert (one[0], one[2], one[3]) == ("pool", A, error)
        assert isinstance(two[3], Exception)
    slots = [slot for _, slot, _ in bench.log.of("connect_done")]
    assert len(slots) == len(set(slots))


async def test_a_dial_that_is_cancelled(autojump_clock: MockClock) -> None:
    """A dial that is cut off by the end of the pool has failed."""
    async with open_bench(connector=LedgerConnector(HANG), policy=ONE) as bench:
        await bench.settle(1)
        assert story(bench.log, *DIAL) == ["connect_start"]
    assert story(bench.log, *DIAL) == ["connect_start", "connect_failed"]
    ((_, _, backend, reason),) = bench.log.of("connect_failed")
    assert backend == A
    assert isinstance(reason, BaseException)


async def test_recycling_fails(autojump_clock: MockClock) -> None:
    """A failed ``on_recycle`` is told with its reason."""
    error = OSError("no")
    async with open_bench(policy=ONE) as bench:
        bench.script.next("on_recycle", fails(error))
        await bench.use()
        await bench.settle()
        assert story(bench.log, *BACK) == ["handle_returned", "recycle_start", "recycle_failed"]
        ((pool, slot, reason),) = bench.log.of("recycle_failed")
        assert (pool, reason) == ("pool", error)
        assert bench.log.of("recycle_start") == [("pool", slot, A)]


async def test_a_discarded_handle_is_returned_too(autojump_clock: MockClock) -> None:
    """A discarded connection comes back, and is not recycled."""
    async with open_bench(policy=ONE) as bench:
        (await bench.pool.acquire()).discard()
        await bench.settle()
        assert story(bench.log, *BACK) == ["handle_returned"]


@pytest.mark.parametrize("act", [Do(), Do(valid=False), fails(OSError("no")), HANG])
async def test_health_checks(autojump_clock: MockClock, act: Do) -> None:
    """A health check starts, and is done or has failed with a reason."""
    async with open_bench(policy=ONE) as bench:
        bench.script.next("is_valid", act)
        await bench.settle(16)
        expected = "health_check_done" if act == Do() else "health_check_failed"
        assert story(bench.log, *CHECK)[:2] == ["health_check_start", expected]
        pool, slot, backend = bench.log.of("health_check_start")[0]
        assert (pool, backend) == ("pool", A)
        if act == Do():
            assert bench.log.of("health_check_done")[0] == ("pool", slot)
        else:
            failed = bench.log.of("health_check_failed")[0]
            assert failed[:2] == ("pool", slot)
            assert isinstance(failed[2], Exception)
            assert act.error is None or failed[2] is act.error


async def test_backends_come_and_go(autojump_clock: MockClock) -> None:
    """Backends are added and removed, and go online and offline, in that order."""
    a, b = backends("ab")
    async with open_bench([a]) as bench:
        await bench.settle()
        assert story(bench.log, *ONLINE) == ["backend_added", "slot_set_online"]
        assert bench.log.of("backend_added") == [("pool", a)]
        assert bench.log.of("slot_set_online") == [("pool", a)]
        bench.resolver.set([b])
        await bench.settle()
        assert bench.log.of("backend_removed") == [("pool", a)]
        assert bench.log.of("slot_set_offline") == [("pool", a)]
        assert bench.log.of("backend_added")[1:] == [("pool", b)]
        assert bench.log.of("slot_set_online")[1:] == [("pool", b)]


async def test_online_and_offline(autojump_clock: MockClock) -> None:
    """A backend goes offline with its last connection, and online with its first."""
    policy = policy_of(max_slots=2, spares_wanted=2)
    async with open_bench(policy=policy) as bench:
        await bench.pool.wait_ready(2)
        await bench.settle()
        bench.script.always("connect", slow(1))
        held = [await bench.acquire() for _ in range(2)]
        for claim in held:
            bench.ledger.give(claim.connection)
            claim.discard()
        await bench.settle()
        names = ("slot_set_online", "slot_set_offline")
        assert story(bench.log, *names) == ["slot_set_online", "slot_set_offline"]
        await bench.settle(5)
        assert story(bench.log, *names) == [*names, "slot_set_online"]


async def test_state_changes(autojump_clock: MockClock) -> None:
    """Each change of a slot is told, from the state in which the last one left it."""
    async with open_bench("ab", policy=policy_of(max_slots=4, health_interval=5)) as bench:
        bench.script.next("connect", fails(OSError))
        bench.script.next("is_valid", fails(OSError))
        bench.script.next("on_recycle", fails(OSError))
        bench.script.next("on_acquire", fails(OSError))
        for _ in range(6):
            bench.nursery.start_soon(bench.use, 2)
        await bench.settle(20)
        bench.resolver.set(backends("a"))
        await bench.settle(20)
    last: dict[int, str] = {}
    seen: set[str] = set()
    for pool, slot, backend, old, new in bench.log.of("slot_state_change"):
        assert pool == "pool"
        assert isinstance(backend, Backend)
        assert {old, new} <= STATES
        assert old != new
        assert old == last.get(slot, old)
        last[slot] = new
        seen |= {old, new}
    assert seen == STATES
    assert set(last.values()) == {"closed"}


async def test_rebalancing(autojump_clock: MockClock) -> None:
    """Each plan starts and is done; there is one at each interval."""
    policy = policy_of(rebalance_interval=20)
    async with open_bench(policy=policy) as bench:
        await bench.settle(1)
        before = len(bench.log.of("rebalance_start"))
        assert before >= 1
        await bench.settle(100)
        names = ("rebalance_start", "rebalance_done")
        told = story(bench.log, *names)
        assert told == list(names) * (len(told) // 2)
        assert set(bench.log.of(names[0])) | set(bench.log.of(names[1])) == {("pool",)}
        assert len(bench.log.of("rebalance_start")) - before >= 4


#: Events that take other policies. The tests of ejection and of retirement provoke them.
ELSEWHERE = {
    "connection_retired",
    "backend_ejected",
    "backend_restored",
}
TROUBLE = policy_of(max_slots=4, health_interval=5, drain_timeout=1)


async def every_kind_of_trouble(bench: Bench) -> None:
    """Provoke every event in a pool with the backends a and b and the policy `TROUBLE`.

    The last claim is cut: it is held until the pool ends.
    """
    for hook in TROUBLED:
        bench.script.next(hook, fails(OSError))
    for _ in range(6):
        bench.nursery.start_soon(bench.use, 2)
    with pytest.raises(ClaimTimeoutError):
        await bench.use(timeout=0)
    await bench.settle(20)
    bench.resolver.set(backends("b"))
    await bench.settle(20)
    async with bench.claim() as conn:
        conn.broken = True
    await bench.settle(20)
    for conn in bench.ledger.idle:
        conn.broken = True
    await bench.settle(20)
    bench.nursery.start_soon(hold_to_the_end, bench)
    await bench.settle()


async def hold_to_the_end(bench: Bench) -> None:
    """Hold a claim until the pool has ended."""
    claim = await bench.acquire()
    await bench.until(lambda: bench.pool.is_closed)
    bench.release(claim)


async def test_every_event_is_tested(autojump_clock: MockClock) -> None:
    """A run with every kind of trouble fires every event, with as many arguments."""
    async with open_bench("ab", policy=TROUBLE) as bench:
        await every_kind_of_trouble(bench)
    assert {name for name, _ in bench.log.events} == set(EVENTS) - ELSEWHERE
    for name, args in bench.log.events:
        inspect.signature(getattr(Instrument, name)).bind(None, *args)


def test_no_event_is_forgotten() -> None:
    """There is no event that no code emits."""
    sources = [*Path(qorb_trio.__file__).parent.rglob("*.py")]
    loads = re.compile(r"\b_?events\.(\w+)")
    emitted = {name for file in sources for name in loads.findall(file.read_text())}
    assert set(EVENTS) <= emitted


# ------------------------------------------------------------------ many, and bad ones


class Raising(Instrument):
    """An instrument that has a bug, in one of its methods."""

    def __init__(self) -> None:
        self.calls = 0

    def connect_start(self, pool: str, slot_id: int, backend: Backend) -> None:
        """Fine."""
        self.calls += 1

    def handle_claimed(self, pool: str, claim_id: int, slot_id: int, backend: Backend) -> None:
        """Count the call, and raise."""
        self.calls += 1
        raise ZeroDivisionError("a bug in an instrument")


async def test_an_instrument_that_raises_is_removed(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """An instrument that raises is logged and removed, without harm to claims and others."""
    bad, other = Raising(), EventLog()
    async with open_bench(policy=ONE, instruments=[bad, other]) as bench:
        await bench.use()
        await bench.settle()
        calls = bad.calls
        assert calls == 2
        for _ in range(3):
            claim = await bench.pool.acquire()
            claim.discard()
        assert bad.calls == calls
        assert other.events == bench.log.events
        assert len(bench.log.of("claim_done")) == 4
    (record,) = [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert record.name.startswith("qorb_trio")
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)


async def tells_of_events(bench: Bench) -> bool:
    """Return True if the pool tells an instrument of anything while a connection is used."""
    called: set[str] = set()

    def profile(frame: FrameType, _event: str, _argument: object) -> None:
        called.add(frame.f_code.co_filename)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        await bench.use()
    finally:
        sys.setprofile(before)
    return emitter.__file__ in called


async def test_a_pool_without_instruments_again(autojump_clock: MockClock) -> None:
    """A pool whose only instrument has raised emits no events, until another one is added."""
    async with open_bench(policy=ONE, instruments=[Raising()], log=False) as bench:
        await bench.use()
        assert not await tells_of_events(bench)
        bench.pool.add_instrument(EventLog())
        assert await tells_of_events(bench)


@pytest.mark.parametrize("event", sorted({*EVENTS} - ELSEWHERE))
async def test_any_event_may_raise(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, event: str
) -> None:
    """An exception of an instrument, in any of its events, does not disturb the pool."""
    calls = 0

    def method(self: Instrument, *args: Any) -> None:
        nonlocal calls
        calls += 1
        raise LookupError(event)

    bad = type("Bad", (Instrument,), {event: method})()
    async with open_bench("ab", policy=TROUBLE, instruments=[bad]) as bench:
        await every_kind_of_trouble(bench)
        assert bench.stats().claims == 8
    assert calls == 1


async def test_an_instrument_may_ask_for_statistics(autojump_clock: MockClock) -> None:
    """In the middle of every event, ``stats`` adds up."""
    asked: list[str] = []

    async def scenario(bench: Bench) -> None:
        for _ in range(3):
            bench.nursery.start_soon(bench.use, 2)
        await bench.settle(10)

    class Asking(EventLog):
        def record(self, name: str, args: tuple[Any, ...]) -> None:
            if holder:
                stats = holder[0].stats()
                total = sum(
                    one.connecting + one.unclaimed + one.checking + one.claimed + one.closing
                    for one in stats.backends.values()
                )
                assert total + stats.departed == stats.slots, (name, stats)
                asked.append(name)

    holder: list[Bench] = []
    async with open_bench("ab", policy=ONE, instruments=[Asking()]) as bench:
        holder.append(bench)
        await scenario(bench)
        holder.clear()
    assert {"claim_done", "connect_done", "slot_state_change", "recycle_done"} <= set(asked)
