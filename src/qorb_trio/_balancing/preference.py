"""`Preference`: the key of a claim, and the backends that it avoids, checked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from .. import _validation as _check
from .._model.backend import Backend
from .affinity import Key, plain_key

#: The key, and the backends to avoid. No class of its own, because each claim with one of these
#: options makes one.
Preference: TypeAlias = tuple[Key | None, tuple[Backend, ...]]

#: The default of ``avoid``, to be compared by identity, which costs less.
NO_BACKENDS: Final[tuple[Backend, ...]] = ()

#: The types of keys that need no closer look.
_PLAIN: Final = frozenset({str, int})

#: What most claims prefer.
NO_PREFERENCE: Final[Preference] = (None, NO_BACKENDS)


def make_preference(key: Key | None, avoid: Iterable[Backend]) -> Preference | None:
    """Check the options ``key`` and ``avoid`` of a claim; return `None` without any.

    Raises:
      TypeError: naming the argument that is wrong.
    """
    if key is not None and type(key) not in _PLAIN:
        key = plain_key(key)
    if avoid is NO_BACKENDS:
        return (key, NO_BACKENDS)
    try:
        backends = tuple(avoid)
    except TypeError:
        _check_iterable(avoid)
        raise  # it is the iterable's own
    if len(backends) == 1 and type(backends[0]) is Backend:
        return (key, backends)  # the usual case
    _check_iterable(avoid)
    for backend in backends:
        _check.instance("avoid: each element", backend, Backend)
    return (key, backends) if backends or key is not None else None


def _check_iterable(avoid: Any) -> None:
    if isinstance(avoid, Backend):
        raise TypeError(f"avoid must be an iterable of Backend: did you mean {{{avoid!r}}}?")
    if isinstance(avoid, (str, bytes)) or not isinstance(avoid, Iterable):
        raise TypeError(f"avoid must be an iterable of Backend, not {avoid!r}")
