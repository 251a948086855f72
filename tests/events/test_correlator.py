"""`Correlator`: what the events of an instrument mean together."""

from __future__ import annotations

import inspect

import pytest

from qorb_trio import Backend, Instrument, PoolEvent
from qorb_trio._events.emitter import EVENTS
from qorb_trio._events.event import KINDS, OWNERS, Correlator

A = Backend(("a.test", 80))
ERROR = OSError("no")


def test_the_table_has_every_event() -> None:
    """The table has the methods of `Instrument`, each with its arguments, and no other."""
    assert list(KINDS) == list(EVENTS)
    renamed = {"reason": "error"}
    for name, kind in KINDS.items():
        _, pool, *arguments = inspect.signature(getattr(Instrument, name)).parameters
        assert pool == "pool"
        assert list(kind.arguments) == [renamed.get(it, it) for it in arguments], name


def test_every_span_begins_and_ends() -> None:
    """What one event begins another one ends, and both can tell what it belongs to."""
    begun = {kind.begins for kind in KINDS.values()} - {None}
    ended = {kind.ends for kind in KINDS.values()} - {None}
    assert begun == ended
    for kind in KINDS.values():
        for span in {kind.begins, kind.ends, kind.within} - {None}:
            assert span is not None
            assert {*kind.arguments, "pool"} & {OWNERS.get(span, "slot_id")}


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


@pytest.mark.parametrize("name", KINDS)
def test_what_begins_unheard_has_no_duration(name: str) -> None:
    """An instrument that comes late hears of ends without beginnings."""
    values = {"claim_id": 1, "slot_id": 2, "backend": A, "error": ERROR, "old": "x", "new": "y"}
    event = Correlator().record(name, 1, "p", *(values[it] for it in KINDS[name].arguments))
    assert event.duration is None
    assert event.name == name


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
