"""`Emitter`: tells the instruments of a pool what happens.

Each event is an attribute: a function that tells of it, or `None` while no instrument listens.
So an event that nobody hears costs the load of an attribute, and type checkers see every
argument::

    if (emit := events.connect_start) is not None:
        emit(slot.id, backend)
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, final

from .._model.backend import Backend
from .._util import log_safely, printable, safe_repr
from ..abc import Instrument

logger = logging.getLogger("qorb_trio.instrument")

EVENTS = tuple(name for name in vars(Instrument) if not name.startswith("_"))

#: The attributes of an emitter without instruments.
_SILENCE: Final = dict.fromkeys(EVENTS)


@final
class Emitter:
    """Calls the instruments of one pool, whose name it adds to every event.

    An instrument that raises is logged and removed.
    """

    claim_start: Callable[[int], None] | None
    claim_done: Callable[[int, int], None] | None
    claim_failed: Callable[[int, BaseException], None] | None
    claim_acquire_failed: Callable[[int, int, BaseException], None] | None
    connect_start: Callable[[int, Backend], None] | None
    connect_done: Callable[[int, Backend], None] | None
    connect_failed: Callable[[int, Backend, BaseException], None] | None
    handle_claimed: Callable[[int, int, Backend], None] | None
    handle_returned: Callable[[int], None] | None
    health_check_start: Callable[[int, Backend], None] | None
    health_check_done: Callable[[int], None] | None
    health_check_failed: Callable[[int, BaseException], None] | None
    recycle_start: Callable[[int, Backend], None] | None
    recycle_done: Callable[[int], None] | None
    recycle_failed: Callable[[int, BaseException], None] | None
    slot_set_online: Callable[[Backend], None] | None
    slot_set_offline: Callable[[Backend], None] | None
    slot_state_change: Callable[[int, Backend, str, str], None] | None
    rebalance_start: Callable[[], None] | None
    rebalance_done: Callable[[], None] | None
    backend_added: Callable[[Backend], None] | None
    backend_removed: Callable[[Backend], None] | None
    connection_stale: Callable[[int, Backend, BaseException], None] | None
    connection_broken: Callable[[int, Backend, BaseException], None] | None
    connection_retired: Callable[[int, Backend, str], None] | None
    claim_cut: Callable[[int, Backend], None] | None
    backend_ejected: Callable[[Backend, str, float], None] | None
    backend_restored: Callable[[Backend], None] | None

    def __init__(self, pool: str, instruments: Iterable[Instrument] = ()) -> None:
        self._pool = pool
        self._on_change: Callable[[], None] = lambda: None
        self._instruments: list[Instrument] = []
        #: The pool's own listeners, with the event that each of them hears.
        self._watchers: list[tuple[str, Callable[..., None]]] = []
        vars(self).update(_SILENCE)
        for instrument in instruments:
            self.add(instrument)

    @property
    def is_silent(self) -> bool:
        """True if there is no instrument."""
        return not self._instruments

    def on_change(self, callback: Callable[[], None]) -> None:
        """Have `callback` called whenever an instrument has been added or removed."""
        self._on_change = callback

    def add(self, instrument: Instrument) -> None:
        """Tell `instrument` too from now on. It is told once, however often it is added."""
        if not self._has(instrument):
            self._instruments.append(instrument)
            self._update()

    def remove(self, instrument: Instrument) -> None:
        """Do not tell `instrument` any more; a `KeyError` if it is not told."""
        if not self._has(instrument):
            raise KeyError(instrument)
        self._instruments = [it for it in self._instruments if it is not instrument]
        self._update()

    @contextlib.contextmanager
    def watching(self, event: str, watcher: Callable[..., None]) -> Iterator[None]:
        """Call a function of the pool's own at each `event`, after the instruments.

        It must not raise. It is given the arguments of the event without the pool's name.
        """
        entry = (event, watcher)
        self._watchers.append(entry)
        self._update()
        try:
            yield
        finally:
            self._watchers.remove(entry)
            self._update()

    def _has(self, instrument: Instrument) -> bool:
        return any(it is instrument for it in self._instruments)

    def _update(self) -> None:
        for event in EVENTS:
            setattr(self, event, self._teller(event))
        self._on_change()

    def _teller(self, event: str) -> Callable[..., None] | None:
        """Return a function that calls all that listen to `event`, or `None`."""
        listeners = [
            (instrument, getattr(instrument, event))
            for instrument in self._instruments
            if _overrides(instrument, event)
        ]
        watchers = [watcher for name, watcher in self._watchers if name == event]
        if not (listeners or watchers):
            return None

        def tell(*args: Any) -> None:
            for instrument, method in listeners:
                try:
                    method(self._pool, *args)
                except BaseException as exc:  # noqa: BLE001, ASYNC103 - see below
                    # As in Trio: whatever an instrument raises, the pool is in the middle of
                    # something, and nobody up the stack has asked for this call.
                    log_safely(
                        logger,
                        logging.ERROR,
                        "%s raised in %s; it is removed",
                        printable(safe_repr(instrument)),
                        event,
                        exc_info=exc,
                    )
                    with contextlib.suppress(KeyError):  # it may have removed itself
                        self.remove(instrument)
            for watcher in watchers:
                watcher(*args)

        return tell


def _overrides(instrument: Instrument, event: str) -> bool:
    method = getattr(instrument, event)
    return getattr(method, "__func__", None) is not getattr(Instrument, event)
