"""Records that are missing from an answer, and the moment at which they are removed. Pure.

Some nameservers answer with a part of the records only: a random choice, or the few that fit.
If each answer replaced the set, backends would come and go with every query. So a record that
is missing is kept for a while:

* If two answers in a row are the same set, that set is believed. This is the rule for every
  ordinary change, and the second query is sent soon.
* If answers differ from each other, a record is removed when it has been missing from two
  answers in a row, for at least a TTL.
* If a record comes back that was missing, the nameserver is known to answer in part. From then
  on three equal answers in a row are needed, or an absence of at least a minute from enough
  answers to make it unlikely that the record is still there.
* If a record has been removed twice and has come back twice, each time within minutes, it is
  flapping. From then on the equal answers must last for a minute too. Otherwise, records that
  come and go with every TTL would be believed each time, and a pool would close and open their
  connections as often.

An answer counts only if it is not another copy of the previous one from the nameserver's
cache, which a TTL that counts down gives away.
"""

from __future__ import annotations

import math
from typing import Final, cast, final

import attrs

from .records import Records, Srv

#: The chance at which a removed record may still be there, if answers are random choices.
_ERROR: Final = 0.001
_MIN_MISSES: Final = 2
_MAX_MISSES: Final = 100

#: How long a record must be missing from a nameserver that answers in part, in seconds.
_PARTIAL_ABSENCE: Final = 60.0

#: The time after its removal within which the return of a record counts, in seconds.
_RETURN: Final = 300.0

#: The number of such returns after which a record is flapping.
_FLAPS: Final = 2

#: The maximum number of removed records that are remembered.
_MAX_REMOVED: Final = 2000

#: The maximum delay of new records that wait for the confirmation of a removal, in seconds.
_HOLD: Final = 5.0

#: The maximum number of records that are kept although they are missing.
_MAX_KEPT: Final = 2000

#: A cache counts whole seconds.
_RENEWED: Final = 0.9


@final
@attrs.frozen
class Copy:
    """One answer with records, as `Retention` needs to know it."""

    records: Records
    ttl: int
    server: str
    authoritative: bool
    time: float

    def is_new_after(self, other: Copy) -> bool:
        """Return True unless this may be the same copy in the nameserver's cache."""
        expiry = other.time + other.ttl
        return (
            self.authoritative
            or self.server != other.server
            or self.time >= expiry
            or self.time + self.ttl >= expiry + _RENEWED
        )


def identity(record: Srv | str) -> object:
    """Return the part of a record that makes it a backend's, without weight and priority."""
    return (record.target, record.port) if isinstance(record, Srv) else record


def _by_identity(records: Records) -> dict[object, Srv | str]:
    return {identity(record): record for record in records}


def common(records: Records, others: Records) -> Records:
    """Return those of `records` that are among `others` too."""
    known = _by_identity(others)
    return cast("Records", tuple(r for r in records if identity(r) in known))


def misses_needed(present: int, known: int) -> int:
    """Return the number of answers in a row from which a record must be missing.

    If each answer holds `present` of `known` records at random, the chance that a record
    is missing from n answers in a row is (1 - present/known)**n.
    """
    if present >= known:
        return _MIN_MISSES
    misses = math.ceil(math.log(_ERROR) / math.log(1 - present / known))
    return min(max(misses, _MIN_MISSES), _MAX_MISSES)


@attrs.define
class _Absence:
    since: float
    answers: int = 0


@attrs.define
class _Removal:
    time: float
    is_gone: bool = True
    returns: int = 0


@final
class Retention:
    """The missing records of one name and type."""

    def __init__(self) -> None:
        self._last: Copy | None = None
        self._equal = 0
        self._equal_since = 0.0
        self._absent: dict[object, _Absence] = {}
        self._is_partial = False
        #: True if a record is flapping, so that the next removal takes a minute.
        self._is_flapping = False
        #: The records that were removed in the last minutes, the latest last.
        self._removed: dict[object, _Removal] = {}
        #: The records to use if the query that should confirm a removal fails; `None` if
        #: none wait.
        self.held: Records | None = None
        #: True if the next query should be sent soon, because it will decide.
        self.is_undecided = False

    @property
    def is_idle(self) -> bool:
        """True if nothing is missing, and nothing remembered."""
        return not (self._absent or self._is_partial or self._removed)

    def merge(self, current: Records, copy: Copy) -> Records:
        """Return the records to use after an answer, given those in use."""
        merged = self._merge(current, copy)
        self._note_removed(current, merged, copy.time)
        return merged

    def _merge(self, current: Records, copy: Copy) -> Records:
        known, new = _by_identity(current), _by_identity(copy.records)
        first = not (self._absent or self._is_partial)
        is_new = self._note(new, copy)
        self.held, self.is_undecided = None, False
        if self._is_believed(copy) or known.keys() <= new.keys():
            self._absent.clear()
            return copy.records
        for key in known.keys() - new.keys():
            absence = self._absent.setdefault(key, _Absence(copy.time))
            absence.answers += is_new
        kept = self._kept(known, len(new), copy)
        union = cast("Records", tuple(sorted(cast("list[str]", [*kept, *copy.records]))))
        self.is_undecided = first or self._may_hold(copy)
        if self.is_undecided:
            self.held = union
            return current
        return union

    def _note(self, new: dict[object, Srv | str], copy: Copy) -> bool:
        """Count answers that are equal, and notice records that come back.

        Returns False if this is only another copy of the last answer.
        """
        returned = self._absent.keys() & new.keys()
        for key in returned:
            del self._absent[key]
        self._is_flapping = self._is_flapping or self._has_flapped(new)
        self._is_partial = self._is_partial or bool(returned) or self._is_flapping
        last = self._last
        if last is None or _by_identity(last.records).keys() != new.keys():
            self._equal, self._equal_since = 1, copy.time
        elif copy.is_new_after(last):
            self._equal += 1
        else:
            return False
        self._last = copy
        return True

    def _has_flapped(self, new: dict[object, Srv | str]) -> bool:
        """Count the removed records that are back; True if one has come back too often."""
        for key in self._removed.keys() & new.keys():
            removal = self._removed[key]
            removal.returns += removal.is_gone
            removal.is_gone = False
        return any(removal.returns >= _FLAPS for removal in self._removed.values())

    def _note_removed(self, before: Records, after: Records, now: float) -> None:
        """Remember the records that are removed, for a while."""
        for key in _by_identity(before).keys() - _by_identity(after).keys():
            removal = self._removed.pop(key, None) or _Removal(now)
            removal.time, removal.is_gone = now, True
            self._removed[key] = removal
        latest = list(self._removed.items())[-_MAX_REMOVED:]
        self._removed = {key: it for key, it in latest if now - it.time < _RETURN}

    def _is_believed(self, copy: Copy) -> bool:
        """Return True if enough answers in a row were this set."""
        if not self._is_partial:
            return self._equal >= 2
        least = _PARTIAL_ABSENCE if self._is_flapping else 1
        if self._equal >= 3 and copy.time - self._equal_since >= max(copy.ttl, least):
            self._is_partial = self._is_flapping = False
            return True
        return False

    def _may_hold(self, copy: Copy) -> bool:
        """Return True while a cache repeats the first answer without the missing records."""
        return (
            self._equal == 1
            and not self._is_partial
            and self._last is not None
            and self._last is not copy
            and self._last.ttl <= _HOLD
            and copy.time - self._equal_since < _HOLD
        )

    def _kept(self, known: dict[object, Srv | str], present: int, copy: Copy) -> list[Srv | str]:
        """Return the missing records that are kept; the others are forgotten."""
        needed, wait = _MIN_MISSES, float(copy.ttl)
        if self._is_partial:
            needed = misses_needed(present, present + len(self._absent))
            wait = max(wait, _PARTIAL_ABSENCE)
        latest = sorted(self._absent.items(), key=lambda item: item[1].since, reverse=True)
        self._absent = {
            key: absence
            for key, absence in latest[: max(0, _MAX_KEPT - present)]
            if key in known and (absence.answers < needed or copy.time - absence.since < wait)
        }
        return [known[key] for key in self._absent]
