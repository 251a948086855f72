"""Servers that move to another address and another port at once. No I/O.

Address and port come in answers of their own. If a set is published between the two, it has a
backend that never was: the new address with the old port, or the other way round. So where one
of them changes, the other is asked for, and the set waits for its answer, but not for long.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, final

from .records import Records, Srv
from .table import TrackerTable
from .tracker import Tracker

#: The maximum time for which a set waits for an answer after its query, in seconds.
MAX_HOLD: Final = 0.25

#: A set waits for a query that will decide if it is due within this many seconds.
MAX_CONFIRMATION: Final = 2.0

#: The maximum time for which a set waits in all, in seconds.
MAX_TOTAL: Final = 3.0

#: The minimum time between two queries for a name that are due to a change of another one, in
#: seconds. Some addresses change all the time.
MIN_DISTANCE: Final = 5.0


@final
class Moves:
    """The names whose answers a set waits for."""

    def __init__(self, table: TrackerTable, own: Tracker) -> None:
        self._table = table
        self._own = own
        self._awaited: dict[Tracker, None] = {}
        self._since = math.inf
        #: The time at which the set is published in any case; `inf` if none waits.
        self.held_until = math.inf

    def expect_more(self, tracker: Tracker, before: Records, now: float) -> None:
        """Ask for the port where an address changes, and for addresses where a port does.

        `before` are the records that the name had before it changed.
        """
        if tracker is not self._own:
            others = [self._own] if self._own.records else []
        else:
            moved = moved_targets(before, tracker.records)
            found = [self._table.get(it) for name in moved for it in self._table.of_name(name)]
            others = [it for it in found if it is not None]
        for other in others:
            self._expect(other, now)

    def _expect(self, tracker: Tracker, now: float) -> None:
        """Wait for a name whose records may have changed too; ask for it now, if it may be."""
        self._awaited[tracker] = None
        if not tracker.asking and now >= tracker.asked_at + MIN_DISTANCE:
            tracker.due = now
            self._table.reschedule(tracker)

    def hold(self, now: float) -> bool:
        """Return True if the set must wait."""
        expected = [_expected(it) for it in self._awaited if _is_pending(it, now)]
        if not expected or now >= self._since + MAX_TOTAL:
            self._awaited.clear()
            self._since = self.held_until = math.inf
            return False
        self._since = min(self._since, now)
        self.held_until = min(max(expected) + MAX_HOLD, self._since + MAX_TOTAL)
        return True


def _expected(tracker: Tracker) -> float:
    return tracker.asked_at if tracker.asking else tracker.due


def _is_pending(tracker: Tracker, now: float) -> bool:
    """Return True if an answer that may change the records should come soon."""
    if not (tracker.asking or tracker.due <= now or tracker.is_undecided):
        return False
    expected = _expected(tracker)
    return now < expected + MAX_HOLD and expected <= now + MAX_CONFIRMATION


def moved_targets(before: Records, after: Records) -> Iterable[str]:
    """Return the targets of SRV records that have another port now."""
    old, new = _ports(before), _ports(after)
    return [target for target, ports in new.items() if old.get(target, ports) != ports]


def _ports(records: Records) -> dict[str, set[int]]:
    ports: dict[str, set[int]] = {}
    for record in records:
        if isinstance(record, Srv):
            ports.setdefault(record.target, set()).add(record.port)
    return ports
