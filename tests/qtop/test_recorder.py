"""`Recorder`: waits and recent events, from the events of a pool."""

from __future__ import annotations

import trio
import trio.lowlevel

from qorb_trio import Backend
from qorb_trio.qtop._recorder import RECENT, Recorder, describe

A = Backend(("a.test", 80))


def kinds(recorder: Recorder) -> list[tuple[str, str | None, str]]:
    """The events that it has noted."""
    return [(event.kind, event.backend, event.detail) for event in recorder.events]


async def test_waits(autojump_clock: trio.testing.MockClock) -> None:
    """A claim counts for its backend and for the pool, from its start to its grant."""
    recorder = Recorder()
    recorder.claim_start("p", 1)
    await trio.sleep(2)
    recorder.handle_claimed("p", 1, 7, A)
    await trio.sleep(1)
    recorder.claim_done("p", 1, 7)
    for key in (A.name, None):
        found = recorder.waits.of(key, trio.current_time())
        assert found is not None
        assert 3 <= found[0] < 3.4


async def test_what_began_without_it_is_ignored() -> None:
    """A recorder that is added during claims and checks ignores their ends."""
    recorder = Recorder()
    recorder.handle_claimed("p", 1, 7, A)
    recorder.claim_done("p", 1, 7)
    recorder.health_check_done("p", 8)
    recorder.recycle_done("p", 9)
    recorder.health_check_failed("p", 8, ValueError())
    assert recorder.waits.of(None, trio.current_time()) is None
    assert kinds(recorder) == [("health_check_failed", None, "ValueError")]


async def test_failed_claims_leave_nothing_behind() -> None:
    """A claim that fails is noted, one that is cancelled is not, and both are forgotten."""
    recorder = Recorder()
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as exc:
            recorder.claim_start("p", 1)
            recorder.claim_failed("p", 1, exc)
            raise
    recorder.claim_start("p", 2)
    recorder.handle_claimed("p", 2, 7, A)
    recorder.claim_acquire_failed("p", 2, 7, ValueError("no\ngood"))
    recorder.claim_failed("p", 2, TimeoutError("too late"))
    assert kinds(recorder) == [
        ("claim_acquire_failed", A.name, "ValueError: no good"),
        ("claim_failed", A.name, "TimeoutError: too late"),
    ]
    assert not recorder._asked
    assert not recorder._given


async def test_checks_know_their_backend() -> None:
    """The end of a check does not tell where it was, but its beginning did."""
    recorder = Recorder()
    recorder.health_check_start("p", 1, A)
    recorder.health_check_failed("p", 1, OSError("gone"))
    recorder.recycle_start("p", 2, A)
    recorder.recycle_failed("p", 2, OSError("dirty"))
    for start, done in (
        ("health_check_start", "health_check_done"),
        ("recycle_start", "recycle_done"),
    ):
        getattr(recorder, start)("p", 3, A)
        getattr(recorder, done)("p", 3)
    assert kinds(recorder) == [
        ("health_check_failed", A.name, "OSError: gone"),
        ("recycle_failed", A.name, "OSError: dirty"),
    ]
    assert not recorder._checked


async def test_what_comes_and_goes() -> None:
    """Backends that come and go, on line and in the set, are events."""
    recorder = Recorder()
    recorder.backend_added("p", A)
    recorder.slot_set_online("p", A)
    recorder.connect_failed("p", 1, A, ConnectionRefusedError("no"))
    recorder.slot_set_offline("p", A)
    recorder.backend_removed("p", A)
    assert [kind for kind, _, _ in kinds(recorder)] == [
        "backend_added",
        "slot_set_online",
        "connect_failed",
        "slot_set_offline",
        "backend_removed",
    ]
    assert [event.number for event in recorder.events] == [1, 2, 3, 4, 5]


async def test_ejections_and_ends() -> None:
    """Ejections, broken connections and cut claims are events; what is routine is none."""
    recorder = Recorder()
    recorder.backend_ejected("p", A, "5 failures in a row", 4.321)
    recorder.backend_restored("p", A)
    recorder.connection_stale("p", 1, A, ConnectionError("closed by the peer"))
    recorder.connection_broken("p", 1, A, ConnectionError("reset"))
    recorder.connection_retired("p", 1, A, "lifetime")
    recorder.claim_cut("p", 1, A)
    assert kinds(recorder) == [
        ("backend_ejected", A.name, "for 4.32 s: 5 failures in a row"),
        ("backend_restored", A.name, ""),
        ("connection_broken", A.name, "ConnectionError: reset"),
        ("claim_cut", A.name, ""),
    ]


async def test_a_flood_is_bounded() -> None:
    """Of many events the latest hundred are remembered."""
    recorder = Recorder()
    for number in range(RECENT + 5):
        recorder.connect_failed("p", number, A, OSError(str(number)))
    assert len(recorder.events) == RECENT
    assert recorder.events[-1].detail == f"OSError: {RECENT + 4}"


def test_an_exception_without_a_text() -> None:
    """An exception is described whatever its text does, and at no great length."""

    class Bad(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert describe(Bad()) == "Bad: <Bad that cannot be shown: RuntimeError>"
    assert describe(ValueError()) == "ValueError"
    assert len(describe(ValueError("x" * 1000))) == 200
