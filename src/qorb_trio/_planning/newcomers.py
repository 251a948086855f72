"""`Newcomers`: backends of a new set that wait until a rebalance lets them in. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Generic, final

from .._phases import finish
from .plan import V
from .rotation import last_holder_keys

#: The distance between two keys of backends that wait.
STEP: Final = 1e-9


@final
class Newcomers(Generic[V]):
    """The newcomers of one pool that would take the places of backends with connections.

    In a pool with fewer slots than backends, each newcomer whose key is small enough replaces
    the last holder of a connection. If a set brings many of them, that would close many
    connections at once: 12 of 16, measured when 20 backends became 40. So they wait behind
    the last holder, and each rebalance lets one in. A single newcomer does not wait.
    """

    def __init__(self) -> None:
        #: The views that wait, and their keys, in the order of these.
        self._waiting: list[tuple[float, V]] = []

    def hold_back(self, newcomers: Sequence[V], others: Sequence[V]) -> list[tuple[V, float]]:
        """Return which newcomers must wait, each with the key that it has meanwhile."""
        last = finish(last_holder_keys(others))
        displacing = [v for v in newcomers if v.rotation_key < last.get(v.priority, 0.0)]
        if len(displacing) < 2:
            return []
        displacing.sort(key=_key)
        self._waiting += [(view.rotation_key, view) for view in displacing]
        self._waiting.sort(key=_first)
        return [(view, last[view.priority] + STEP * i) for i, view in enumerate(displacing, 1)]

    def admit(self) -> tuple[V, float] | None:
        """Return the first one that waits, and the key that it has from now on, if there is one."""
        if not self._waiting:
            return None
        key, view = self._waiting.pop(0)
        return view, key

    def forget(self, view: V) -> None:
        """Take a view that has left, or whose key has changed, out of those that wait."""
        self._waiting = [(key, waiting) for key, waiting in self._waiting if waiting is not view]


def _key(view: V) -> float:
    return view.rotation_key


def _first(entry: tuple[float, V]) -> float:
    return entry[0]
