"""The emitter: it tells each instrument the events that the instrument overrides."""

from __future__ import annotations

import logging

import pytest

from qorb_trio._events.emitter import EVENTS, Watch
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


def watching(*instruments: Instrument) -> Watch:
    """A watch that tells these."""
    watch = Watch(lambda: None)
    for instrument in instruments:
        watch.add(instrument)
    return watch


def test_only_what_is_overridden_is_heard() -> None:
    """Each instrument hears the events that it overrides, with their arguments."""
    first, second, deaf = Counting(), Counting(), Instrument()
    watch = watching(first, deaf, second)
    watch.fire("rebalance_start", "p")
    watch.fire("rebalance_done", "p")
    watch.fire("claim_start", "p", 7)
    assert first.heard == second.heard == [("start", "p"), ("claim", 7)]
    assert set(watch._listeners) == {"rebalance_start", "claim_start"}


def test_events_are_what_instruments_have() -> None:
    """Every public method of `Instrument` is an event."""
    assert set(EVENTS) == {name for name in dir(Instrument) if not name.startswith("_")}


def test_a_method_set_on_the_instance_is_heard() -> None:
    """An event may be overridden by an attribute of the instance too."""
    heard: list[str] = []
    instrument = Instrument()
    setattr(instrument, "rebalance_done", heard.append)  # noqa: B010
    watching(instrument).fire("rebalance_done", "p")
    assert heard == ["p"]


@pytest.mark.parametrize(
    "error", [ValueError("bug"), KeyboardInterrupt(), SystemExit(1)], ids=lambda e: type(e).__name__
)
def test_an_instrument_that_raises_is_removed(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """An instrument that raises is logged and removed; the others go on."""
    before, bad, after = Counting(), Raising(error), Counting()
    watch = watching(before, bad, after)
    with caplog.at_level(logging.ERROR, "qorb_trio.instrument"):
        for claim_id in (1, 2):
            watch.fire("claim_start", "p", claim_id)
        watch.fire("rebalance_start", "p")
    assert bad.heard == [("claim", 1)]
    assert before.heard == after.heard == [("claim", 1), ("claim", 2), ("start", "p")]
    assert len(caplog.records) == 1
    assert "claim_start" in caplog.text
    assert type(error).__name__ in caplog.text


def test_an_instrument_is_told_once() -> None:
    """An instrument that is added twice is told once, and after its removal not at all."""
    instrument = Counting()
    watch = watching(instrument, instrument)
    watch.fire("rebalance_start", "p")
    watch.remove(instrument)
    watch.fire("rebalance_start", "p")
    assert instrument.heard == [("start", "p")]
    with pytest.raises(KeyError):
        watch.remove(instrument)


def test_an_instrument_that_leaves_and_raises() -> None:
    """One that removes itself in the call in which it raises harms nobody."""

    class Leaving(Instrument):
        def rebalance_start(self, pool: str) -> None:
            watch.remove(self)
            raise ValueError

    after = Counting()
    watch = watching(Leaving(), after)
    watch.fire("rebalance_start", "p")
    assert after.heard == [("start", "p")]
    assert watch.instruments == [after]
