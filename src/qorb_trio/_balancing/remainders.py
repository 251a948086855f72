"""`Remainders`: what is left of a tier for claims that avoid a backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Generic, TypeVar, final

from .._model.backend import Backend
from .candidates import IdleSet

S = TypeVar("S", bound=IdleSet)

#: The number of avoided backends that are kept. All are forgotten when it is reached.
MOST_KEPT: Final = 1024


@final
class Remainders(Generic[S]):
    """The rest of one tier without a backend, for as long as neither it nor a weight changes."""

    __slots__ = ("_rests", "avoided", "rest")

    def __init__(self, tier: Sequence[S]) -> None:
        #: The one backend that was avoided last, and the sets that are left without it. Read-only.
        self.avoided: tuple[Backend, ...] | None = None
        self.rest: Sequence[S] = tier
        #: The same for all that were avoided, by the name of the backend.
        self._rests: dict[str, tuple[Backend, Sequence[S]]] = {}

    def recall(self, avoided: tuple[Backend, ...]) -> bool:
        """Find the sets that are left without one backend; return True if they were kept."""
        if len(avoided) > 1:
            return False
        found = self._rests.get(avoided[0].name)
        # Another backend may have that name.
        if found is None or found[0] is not avoided[0]:
            return False
        self.avoided, self.rest = avoided, found[1]
        return True

    def keep_rest(self, avoided: Backend, rest: Sequence[S]) -> None:
        """Keep the sets that are left without a backend."""
        if len(self._rests) >= MOST_KEPT:
            self._rests.clear()
        self._rests[avoided.name] = (avoided, rest)
