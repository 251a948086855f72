"""The set of backends that a service publishes. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from ..._model.backend import Backend
from .assembly import Assembler
from .config import DnsResolverConfig
from .table import Targets, TrackerTable


@final
class Publication:
    """The set that was published last, and the one that the records add up to now.

    Args:
      table: the trackers of the service.
      config: says what an empty set means.
      now: the current time.
    """

    def __init__(self, table: TrackerTable, config: DnsResolverConfig, now: float) -> None:
        self._table = table
        self._config = config
        self._assembler = Assembler()
        #: The set that the records add up to.
        self.assembled: tuple[Backend, ...] = ()
        #: The set that was published last; `None` before the first.
        self.published: tuple[Backend, ...] | None = None
        #: True if the set must be assembled anew.
        self.is_dirty = False
        # When there last was an answer with records.
        self._last_full = now
        # True if there is nothing because the records were too old.
        self._expired = False

    @property
    def is_cut(self) -> bool:
        """True if the set was cut down to `MAX_BACKENDS`."""
        return self._assembler.is_cut

    def note_records(self, now: float) -> None:
        """Note that a name of the service has records."""
        if self.assembled:
            self._last_full = now

    def note_expiry(self, *, expired: bool) -> None:
        """Note if records have just been forgotten because they were too old."""
        self._expired = expired or (self._expired and not self.assembled)
        self.is_dirty = self.is_dirty or expired

    def assemble(self, targets: Targets | None, last_answer: float) -> None:
        """Make the set anew if something has changed."""
        if self.is_dirty:
            before = self.assembled
            self.assembled = self._assembler.assemble(targets or (), self._table.addresses)
            self.is_dirty = False
            if not before:
                self._last_full = last_answer

    def publish(self, now: float, *, is_certain: bool) -> tuple[Backend, ...] | None:
        """Return the set if it is to replace the one published last.

        Args:
          now: the current time.
          is_certain: True if it is certain that there are no backends where none are known.
        """
        if not self._should_publish(now, is_certain=is_certain):
            return None
        self.published = self.assembled
        return self.published

    def _should_publish(self, now: float, *, is_certain: bool) -> bool:
        if self.published is None:
            return bool(self.assembled) or is_certain
        if self._keeps() and now < self._last_full + self._config.max_stale:
            return False
        return _in_full(self.assembled) != _in_full(self.published)

    def _keeps(self) -> bool:
        """Return True if a set is kept although DNS says that there are no backends any more."""
        return (
            self._config.on_empty == "keep"
            and not self.assembled
            and bool(self.published)
            and not self._expired
        )

    @property
    def kept_until(self) -> float | None:
        """The time at which a set that is kept is given up; `None` if none is kept."""
        return self._last_full + self._config.max_stale if self._keeps() else None


def _in_full(backends: Iterable[Backend]) -> list[tuple[Backend, int, int]]:
    """Priority and weight take no part in the equality of backends, but a change is news."""
    return [(backend, backend.priority, backend.weight) for backend in backends]
