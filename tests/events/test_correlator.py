"""`Correlator`: what the events of an instrument mean together."""

from __future__ import annotations

import inspect

import pytest
import trio

from qorb_trio import Backend, Instrument, PoolEvent, is_abandonment
from qorb_trio._events.correlator import Correlator
from qorb_trio._events.emitter import EVENTS
from qorb_trio._events.event import EVENT_SPECS, SPAN_KEYS

A = Backend(("a.test", 80))
ERROR = OSError("no")


def test_the_table_has_every_event() -> None:
    """The table has the methods of `Instrument`, each with its arguments, and no other."""
    assert list(EVENT_SPECS) == list(EVENTS)
    for name, spec in EVENT_SPECS.items():
        _, pool, *arguments = inspect.signature(getattr(Instrument, name)).parameters.values()
        assert pool.name == "pool"
        fields = ["error" if it.annotation == "BaseException" else it.name for it in arguments]
        assert list(spec.arguments) == fields, name


def test_every_span_begins_and_ends() -> None:
    """Each span that one event begins another one ends, and both know its key."""
    begun = {spec.begins for spec in EVENT_SPECS.values()} - {None}
    ended = {spec.ends for spec in EVENT_SPECS.values()} - {None}
    assert begun == ended
    for spec in EVENT_SPECS.values():
        for span in {spec.begins, spec.ends, spec.within, spec.forgets} - {None}:
            assert span is not None
            assert {*spec.arguments, "pool"} & {SPAN_KEYS.get(span, "slot_id")}


def test_a_claim_and_its_connection() -> None:
    """Each event gets the backend, the claim, and the time since its counterpart."""
    it = Correlator()
    seen = [
        it.record("connect_start", 0, "p", 1, A),
        it.record("connect_done", 2, "p", 1, A),
        it.record("slot_state_change", 2, "p", 1, A, "connecting", "unclaimed"),
        it.record("claim_start", 10, "p", 7),
        it.record("slot_state_change", 12, "p", 1, A, "unclaimed", "claimed"),
        it.record("handle_claimed", 12, "p", 7, 1, A),
        it.record("claim_done", 13, "p", 7, 1),
        it.record("handle_returned", 20, "p", 1),
        it.record("slot_state_change", 20, "p", 1, A, "claimed", "checking"),
        it.record("recycle_start", 21, "p", 1, A),
        it.record("recycle_done", 25, "p", 1),
    ]
    assert [(one.name, one.claim_id, one.slot_id, one.duration) for one in seen] == [
        ("connect_start", None, 1, None),
        ("connect_done", None, 1, 2),
        ("slot_state_change", None, 1, 2),
        ("claim_start", 7, None, None),
        ("slot_state_change", None, 1, 10),
        ("handle_claimed", 7, 1, None),
        ("claim_done", 7, 1, 3),
        ("handle_returned", 7, 1, 8),
        ("slot_state_change", None, 1, 8),
        ("recycle_start", None, 1, None),
        ("recycle_done", None, 1, 4),
    ]
    assert all(one.backend == A for one in seen if one.name != "claim_start")
    assert seen[2] == PoolEvent(
        name="slot_state_change",
        time=2,
        pool="p",
        slot_id=1,
        backend=A,
        duration=2,
        old="connecting",
        new="unclaimed",
    )


def test_failures() -> None:
    """A failure has its reason, and the time that it took."""
    it = Correlator()
    it.record("connect_start", 0, "p", 1, A)
    dial = it.record("connect_failed", 1, "p", 1, A, ERROR)
    it.record("health_check_start", 2, "p", 1, A)
    check = it.record("health_check_failed", 4, "p", 1, ERROR)
    it.record("claim_start", 5, "p", 2)
    it.record("handle_claimed", 6, "p", 2, 1, A)
    setup = it.record("claim_acquire_failed", 9, "p", 2, 1, ERROR)
    back = it.record("handle_returned", 9, "p", 1)
    claim = it.record("claim_failed", 10, "p", 2, ERROR)
    assert [one.duration for one in (dial, check, setup, back, claim)] == [1, 2, 3, 3, 5]
    assert [one.error for one in (dial, check, setup, back, claim)] == [ERROR] * 3 + [None, ERROR]
    assert (check.backend, setup.backend, claim.backend) == (A, A, None)


def test_backends_and_plans() -> None:
    """A backend has been online, and a plan has taken, so long; pools are kept apart."""
    it = Correlator()
    it.record("slot_set_online", 1, "p", A)
    it.record("slot_set_online", 2, "q", A)
    it.record("rebalance_start", 3, "p")
    assert it.record("rebalance_done", 4, "p").duration == 1
    assert it.record("slot_set_offline", 6, "p", A).duration == 5
    assert it.record("slot_set_offline", 6, "q", A).duration == 4
    assert it.record("backend_removed", 7, "p", A).duration is None
    assert len(it) == 0


@pytest.mark.parametrize("name", EVENT_SPECS)
def test_what_begins_unheard_has_no_duration(name: str) -> None:
    """An instrument that comes late learns of ends without beginnings."""
    values = {"claim_id": 1, "slot_id": 2, "backend": A, "error": ERROR, "old": "x", "new": "y"}
    values |= {"why": "idle", "reason": "5 failures in a row", "seconds": 4.5}
    it = Correlator()
    event = it.record(name, 1, "p", *(values[it] for it in EVENT_SPECS[name].arguments))
    assert event.duration is None
    assert event.name == name
    assert len(it) == 0 or EVENT_SPECS[name].begins


def test_a_connection_that_is_cut_is_told_with_its_claim() -> None:
    """`claim_cut` has the claim that loses its connection, and how long that was held."""
    it = Correlator()
    it.record("handle_claimed", 10, "p", 7, 1, A)
    cut = it.record("claim_cut", 14, "p", 1, A)
    assert (cut.claim_id, cut.backend, cut.duration) == (7, A, 4)
    it.record("slot_state_change", 14, "p", 1, A, "claimed", "closing")
    it.record("slot_state_change", 15, "p", 1, A, "closing", "closed")
    it.record("connection_broken", 15, "p", 1, A, ERROR)
    assert len(it) == 0


def test_an_ejection_lasts_from_its_first_event_to_the_return() -> None:
    """A backend that is ejected again while it is ejected stays so since the first time."""
    it = Correlator()
    first = it.record("backend_ejected", 10, "p", A, "5 failures in a row", 4.0)
    again = it.record("backend_ejected", 15, "p", A, "its trial failed", 8.0)
    back = it.record("backend_restored", 25, "p", A)
    assert [one.duration for one in (first, again, back)] == [None, 5, 15]
    assert str(again) == (
        "backend_ejected pool=p backend=a.test:80 duration=5.000000"
        " reason='its trial failed' seconds=8.000000"
    )
    assert again.as_dict().items() >= {"reason": "its trial failed", "seconds": 8.0}.items()
    assert len(it) == 0


@pytest.mark.parametrize("event", ["backend_removed", "backend_added"])
def test_a_backend_that_leaves_or_comes_is_not_ejected(event: str) -> None:
    """The memory of an ejection ends with the backend, and with the pool that ejected it."""
    it = Correlator()
    it.record("backend_ejected", 10, "p", A, "5 failures in a row", 4.0)
    it.record(event, 11, "p", A)
    assert len(it) == 0


def test_a_forged_line_is_escaped() -> None:
    """No text from elsewhere can forge a line of a log or command a terminal (section H)."""
    backend = Backend(("a.test", 80), name="a\u202etest\u200b")
    error = ConnectionError("refused\n12:00\tWARNING\tlogin_ok\x1b[8m\u2066")
    text = str(Correlator().record("connect_failed", 1, "p\x1b[2J", 1, backend, error))
    assert text == (
        r"connect_failed pool=p\x1b[2J slot_id=1 backend=a\u202etest\u200b"
        r" error_type=ConnectionError error=refused\n12:00\tWARNING\tlogin_ok\x1b[8m\u2066"
    )
    spaced = str(Correlator().record("claim_failed", 1, "p", 1, OSError("a b\n\u115f")))
    assert spaced == r"claim_failed pool=p claim_id=1 error_type=OSError error='a b\n\u115f'"


def test_an_error_whose_text_raises() -> None:
    """An exception whose ``__str__`` raises has a substitute in the record."""

    class Rude(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    event = Correlator().record("claim_failed", 1, "p", 1, Rude())
    assert "<Rude that cannot be shown: ZeroDivisionError>" in str(event)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, False),
        (OSError("no"), False),
        (ConnectionAbortedError(103, "software caused it"), False),
        (ConnectionAbortedError("not needed any more"), True),
        (trio.Cancelled._create(), True),
    ],
)
def test_which_errors_are_abandonments(error: BaseException | None, expected: bool) -> None:
    """A cancellation is one, and the pool's own abort; an abort by the system is a failure."""
    assert is_abandonment(error) is expected
    assert PoolEvent(name="connect_failed", time=0, pool="p", error=error).is_abandoned is expected


def test_what_has_ended_is_forgotten() -> None:
    """A slot is forgotten when it is closed, whatever was going on with it."""
    it = Correlator()
    it.record("connect_start", 0, "p", 1, A)
    it.record("connect_done", 0, "p", 1, A)
    it.record("handle_claimed", 0, "p", 7, 1, A)
    cut = it.record("slot_state_change", 3, "p", 1, A, "claimed", "closing")
    assert cut.claim_id == 7  # closed under the claim that held it
    assert len(it) == 1
    it.record("slot_state_change", 4, "p", 1, A, "closing", "closed")
    assert len(it) == 0


def test_wrong_arguments_are_noticed() -> None:
    """An event with too few or too many arguments is an error, not a wrong record."""
    with pytest.raises(ValueError, match="zip"):
        Correlator().record("claim_start", 0, "p")


def test_as_text_and_as_values() -> None:
    """An event can be read, and be written as JSON; what does not apply is left out."""
    it = Correlator()
    it.record("connect_start", 1, "p", 3, A)
    event = it.record("connect_failed", 1.5, "p", 3, A, OSError("no such luck"))
    assert str(event) == (
        "connect_failed pool=p slot_id=3 backend=a.test:80 duration=0.500000"
        " error_type=OSError error='no such luck'"
    )
    assert event.as_dict() == {
        "event": "connect_failed",
        "time": 1.5,
        "pool": "p",
        "slot_id": 3,
        "backend": "a.test:80",
        "duration": 0.5,
        "error_type": "OSError",
        "error": "no such luck",
    }
    assert it.record("rebalance_start", 2, "p").as_dict() == {
        "event": "rebalance_start",
        "time": 2,
        "pool": "p",
    }
