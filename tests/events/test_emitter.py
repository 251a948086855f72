"""`Emitter`: instruments are told, each of the events that it overrides."""

from __future__ import annotations

import inspect
import logging
import typing
from typing import Any

import pytest

from qorb_trio._events.emitter import EVENTS, Emitter
from qorb_trio.abc import Instrument


class Counting(Instrument):
    """Overrides two events."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, object]] = []

    def rebalance_start(self, pool: str) -> None:
        """Note it."""
        self.heard.append(("start", pool))

    def claim_start(self, pool: str, claim_id: int) -> None:
        """Note it."""
        self.heard.append(("claim", claim_id))


class Raising(Counting):
    """Raises at the first claim."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def claim_start(self, pool: str, claim_id: int) -> None:
        """Note it, and raise."""
        super().claim_start(pool, claim_id)
        raise self.error


def emit(emitter: Emitter, event: str, *args: Any) -> None:
    """Tell of an event as the pool does: if anybody listens."""
    if (tell := getattr(emitter, event)) is not None:
        tell(*args)


def heard_events(emitter: Emitter) -> set[str]:
    """The events that at least one instrument hears."""
    return {event for event in EVENTS if getattr(emitter, event) is not None}


def test_only_what_is_overridden_is_heard() -> None:
    """Each instrument hears the events that it overrides, with their arguments."""
    first, second, deaf = Counting(), Counting(), Instrument()
    emitter = Emitter("p", [first, deaf, second])
    emit(emitter, "rebalance_start")
    emit(emitter, "rebalance_done")
    emit(emitter, "claim_start", 7)
    assert first.heard == second.heard == [("start", "p"), ("claim", 7)]
    assert heard_events(emitter) == {"rebalance_start", "claim_start"}


def test_without_instruments_nothing_is_heard() -> None:
    """Each event is `None` before the first instrument is added and after the last has left."""
    emitter, instrument = Emitter("p"), Counting()
    assert (heard_events(emitter), emitter.is_silent) == (set(), True)
    emitter.add(instrument)
    assert heard_events(emitter)
    assert not emitter.is_silent
    emitter.remove(instrument)
    assert (heard_events(emitter), emitter.is_silent) == (set(), True)


def test_changes_are_told() -> None:
    """The pool learns each time that an instrument has been added or removed, and only then."""
    emitter, instrument = Emitter("p"), Counting()
    changes: list[bool] = []
    emitter.on_change(lambda: changes.append(emitter.is_silent))
    emitter.add(instrument)
    emitter.add(instrument)
    emitter.remove(instrument)
    assert changes == [False, True]


@pytest.mark.parametrize("event", EVENTS)
def test_declared_arguments_are_those_of_the_method(event: str) -> None:
    """Each event is declared with the arguments of the instrument's method but the pool's name."""
    declared = typing.get_type_hints(Emitter)[event]
    types, _ = typing.get_args(typing.get_args(declared)[0])
    method = inspect.signature(getattr(Instrument, event), eval_str=True)
    assert types == [it.annotation for it in [*method.parameters.values()][2:]]


def test_events_are_what_instruments_have() -> None:
    """Every public method of `Instrument` is an event."""
    assert set(EVENTS) == {name for name in dir(Instrument) if not name.startswith("_")}


def test_a_method_set_on_the_instance_is_heard() -> None:
    """An event may be overridden by an attribute of the instance too."""
    heard: list[str] = []
    instrument = Instrument()
    setattr(instrument, "rebalance_done", heard.append)  # noqa: B010
    emit(Emitter("p", [instrument]), "rebalance_done")
    assert heard == ["p"]


@pytest.mark.parametrize(
    "error", [ValueError("bug"), KeyboardInterrupt(), SystemExit(1)], ids=lambda e: type(e).__name__
)
def test_an_instrument_that_raises_is_removed(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """An instrument that raises is logged and removed; the others go on."""
    before, bad, after = Counting(), Raising(error), Counting()
    emitter = Emitter("p", [before, bad, after])
    with caplog.at_level(logging.ERROR, "qorb_trio.instrument"):
        for claim_id in (1, 2):
            emit(emitter, "claim_start", claim_id)
        emit(emitter, "rebalance_start")
    assert bad.heard == [("claim", 1)]
    assert before.heard == after.heard == [("claim", 1), ("claim", 2), ("start", "p")]
    assert len(caplog.records) == 1
    assert "claim_start" in caplog.text
    assert type(error).__name__ in caplog.text


def test_d_a_filter_that_raises_spares_the_emitter(capsys: pytest.CaptureFixture[str]) -> None:
    """An instrument raises, its ``__repr__`` too, and so does a filter of the log: all go on."""

    class Faulty(Raising):
        def __repr__(self) -> str:
            raise ZeroDivisionError("a bug in a __repr__")

    class Rude(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise ZeroDivisionError(f"a bug in a filter of {record.getMessage()}")

    after = Counting()
    emitter = Emitter("p", [Faulty(ValueError("bug")), after])
    logger = logging.getLogger("qorb_trio.instrument")
    logger.addFilter(rude := Rude())
    try:
        emit(emitter, "claim_start", 1)
    finally:
        logger.removeFilter(rude)
    emit(emitter, "claim_start", 2)
    assert after.heard == [("claim", 1), ("claim", 2)]
    assert "a bug in a filter of <Faulty that cannot be shown" in capsys.readouterr().err


def test_an_instrument_is_told_once() -> None:
    """An instrument that is added twice is told once, and after its removal not at all."""
    instrument = Counting()
    emitter = Emitter("p", [instrument, instrument])
    emit(emitter, "rebalance_start")
    emitter.remove(instrument)
    emit(emitter, "rebalance_start")
    assert instrument.heard == [("start", "p")]
    with pytest.raises(KeyError):
        emitter.remove(instrument)


def test_an_instrument_that_leaves_and_raises() -> None:
    """An instrument that removes itself in a call and then raises does not harm the others."""

    class Leaving(Instrument):
        def rebalance_start(self, pool: str) -> None:
            emitter.remove(self)
            raise ValueError

    after = Counting()
    emitter = Emitter("p", [Leaving(), after])
    emit(emitter, "rebalance_start")
    assert after.heard == [("start", "p")]
    emitter.remove(after)
    assert emitter.is_silent
