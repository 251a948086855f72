"""`EventInstrument` and `RecordingInstrument`, on pools."""

from __future__ import annotations

import inspect
import itertools

import pytest
import trio
from trio.testing import MockClock

from qorb_trio import ClaimTimeoutError, EventInstrument, Instrument, PoolEvent
from qorb_trio._events.event import EVENT_SPECS
from qorb_trio.testing import RecordingInstrument

from ..harness import HANG, Hook, LedgerConnector, backends, fails, open_bench, policy_of, slow

ONE = policy_of(max_slots=1, spares_wanted=1, health_interval=10)
TROUBLED: tuple[Hook, ...] = ("connect", "is_valid", "on_recycle", "on_acquire")
(A,) = backends("a")
#: The events of features that the run of all troubles does not use.
ELSEWHERE = {
    *("connection_stale", "connection_broken", "connection_retired"),
    *("claim_cut", "backend_ejected", "backend_restored"),
}


async def test_a_claim_is_told_with_backend_and_times(autojump_clock: MockClock) -> None:
    """Of a real claim, wait, hold and cleaning are told with how long they took."""
    recording = RecordingInstrument()
    connector = LedgerConnector()
    connector.script.next("connect", slow(2))
    connector.script.next("on_acquire", slow(0.25))
    connector.script.next("on_recycle", slow(0.5))
    async with open_bench(policy=ONE, connector=connector, instruments=[recording]) as bench:
        await bench.use(3)
        await bench.settle(1)
        names = ("connect_done", "claim_done", "handle_returned", "recycle_done")
        dial, claim, back, clean = recording.of(*names)
    assert [one.name for one in (dial, claim, back, clean)] == list(names)
    assert {one.backend for one in (dial, claim, back, clean)} == {A}
    assert {one.pool for one in (dial, claim, back, clean)} == {"pool"}
    assert len({one.slot_id for one in (dial, claim, back, clean)}) == 1
    assert claim.claim_id == back.claim_id is not None
    assert dial.duration == pytest.approx(2)
    assert claim.duration == pytest.approx(2.25)
    assert back.duration == pytest.approx(3.25)
    assert clean.duration == pytest.approx(0.5)


async def test_every_event_is_recorded_as_it_was_told(autojump_clock: MockClock) -> None:
    """A run with every kind of trouble: records are the events, and all is forgotten after."""
    recording = RecordingInstrument()
    a, b = backends("ab")
    policy = policy_of(max_slots=4, health_interval=5)
    async with open_bench([a, b], policy=policy, instruments=[recording]) as bench:
        for hook in TROUBLED:
            bench.script.next(hook, fails(OSError))
        for _ in range(6):
            bench.nursery.start_soon(bench.use, 2)
        with pytest.raises(ClaimTimeoutError):
            await bench.use(timeout=0)
        await bench.settle(20)
        bench.resolver.set([b])
        await bench.settle(20)
    assert recording.names == [name for name, _ in bench.log.events]
    for event, (name, (pool, *args)) in zip(recording.events, bench.log.events, strict=True):
        assert event.pool == pool
        assert [getattr(event, field) for field in EVENT_SPECS[name].arguments] == args
    assert {*recording.names} >= {*EVENT_SPECS} - ELSEWHERE
    assert all(event.backend for event in recording.events if event.slot_id is not None)
    assert all(one.time <= other.time for one, other in itertools.pairwise(recording.events))
    for event in recording.events:
        if EVENT_SPECS[event.name].ends and event.old != "connecting":
            assert event.duration is not None, event
    assert len(recording._correlator) == 0


async def test_what_a_claim_holds_when_the_pool_ends(autojump_clock: MockClock) -> None:
    """A connection closed under its claim is told with that claim, and then forgotten."""
    recording = RecordingInstrument()
    async with open_bench(policy=policy_of(drain_timeout=1), instruments=[recording]) as bench:
        claim = await bench.acquire()
        await bench.terminate()
        bench.release(claim)
    changes = [one for one in recording.of("slot_state_change") if one.claim_id is not None]
    assert [(one.old, one.new) for one in changes] == [
        ("claimed", "closing"),
        ("closing", "closed"),
    ]
    ((_, claim_id, slot_id, backend),) = bench.log.of("handle_claimed")
    assert {(one.claim_id, one.slot_id, one.backend) for one in changes} == {
        (claim_id, slot_id, backend)
    }
    assert len(recording._correlator) == 0


async def test_it_may_do_nothing(autojump_clock: MockClock) -> None:
    """An instrument of one method, that is not even overridden, is one that hears all."""
    heard: list[PoolEvent] = []

    class Hearing(EventInstrument):
        def on_event(self, event: PoolEvent) -> None:
            heard.append(event)
            super().on_event(event)

    async with open_bench(policy=ONE, instruments=[Hearing(), EventInstrument()]) as bench:
        await bench.use()
    assert "claim_done" in {event.name for event in heard}


def test_its_methods_are_those_of_instrument() -> None:
    """Each method has the signature and the docstring of the one that it overrides."""
    for name in EVENT_SPECS:
        ours, theirs = getattr(EventInstrument, name), getattr(Instrument, name)
        assert ours is not theirs
        assert inspect.signature(ours) == inspect.signature(theirs)
        assert ours.__doc__ == theirs.__doc__


# ------------------------------------------------------------------ recording


async def test_waiting_for_events(autojump_clock: MockClock) -> None:
    """A wait ends with the event of the given number, past ones included, and returns it."""
    recording = RecordingInstrument()
    async with open_bench(policy=ONE, instruments=[recording]) as bench:
        bench.script.always("on_recycle", slow(1))
        await bench.use()
        first = await recording.wait_for("recycle_done")
        assert await recording.wait_for("recycle_done") is first
        bench.nursery.start_soon(bench.use)
        second = await recording.wait_for("recycle_done", count=2)
        assert [first, second] == recording.of("recycle_done")
        recording.clear()
        assert not recording.names
        bench.nursery.start_soon(bench.use)
        third = await recording.wait_for("recycle_done")
        assert third.time > second.time > first.time


async def test_waiting_can_be_cancelled(autojump_clock: MockClock) -> None:
    """A wait for an event that does not come can be cancelled, and leaves nothing behind."""
    recording = RecordingInstrument()
    connector = LedgerConnector(HANG)
    async with open_bench(policy=ONE, connector=connector, instruments=[recording]) as bench:
        with trio.move_on_after(5) as scope:
            await recording.wait_for("connect_done")
        assert scope.cancelled_caught
        assert recording.names.count("connect_start") == 1
        await bench.settle()


async def test_only_the_latest_are_kept(autojump_clock: MockClock) -> None:
    """The oldest events are forgotten."""
    recording = RecordingInstrument(keep=3)
    async with open_bench(policy=ONE, instruments=[recording]) as bench:
        await bench.use()
        await bench.settle()
        assert recording.names == [name for name, _ in bench.log.events][-3:]


async def test_events_that_do_not_exist() -> None:
    """A misspelt event is an error, and not a test that waits for ever or passes."""
    recording = RecordingInstrument()
    with pytest.raises(ValueError, match="claim_dne"):
        recording.of("claim_done", "claim_dne")
    with pytest.raises(ValueError, match="claim_dne"):
        await recording.wait_for("claim_dne")
    with pytest.raises(ValueError, match="count"):
        await recording.wait_for("claim_done", count=0)
    with pytest.raises(ValueError, match="keep"):
        RecordingInstrument(keep=0)
