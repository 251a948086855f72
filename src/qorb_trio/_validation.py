"""Checks of arguments: each wrong one raises an error that names the field.

``TypeError`` for the wrong kind of thing, ``ValueError`` for the wrong value.
"""

from __future__ import annotations

import math
import sys
from typing import Final

#: The largest float.
_MOST: Final = sys.float_info.max


def count(name: str, value: object, *, least: int = 0) -> None:
    """A whole number of things, at least `least`. A bool is not a number here."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value!r}")


def limit(name: str, value: object, *, least: int = 0) -> None:
    """A whole number of things, at least `least`, or ``math.inf`` for no limit."""
    if isinstance(value, bool) or not (isinstance(value, int) or value == math.inf):
        raise TypeError(f"{name} must be an int or math.inf, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value!r}")
    if sys.maxsize < value < math.inf:
        raise ValueError(f"{name} must be at most sys.maxsize, or math.inf for no limit")


def fraction(name: str, value: object, *, zero: bool = True) -> None:
    """A number from 0 to 1; `zero` may be forbidden."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number from 0 to 1, not {value!r}")
    if value == 0 and not zero:
        raise ValueError(f"{name} must be greater than zero")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be from 0 to 1, not {value!r}")


def seconds(name: str, value: object, *, zero: bool = True, endless: bool = True) -> None:
    """A duration in seconds; `zero` and `endless` (``math.inf``) may be forbidden."""
    # The type is compared first, because `Pool.claim` has its timeout checked.
    if type(value) is not float and (
        isinstance(value, bool) or not isinstance(value, (int, float))
    ):
        raise TypeError(f"{name} must be a number of seconds (or math.inf), not {value!r}")
    if 0 < value <= _MOST:
        return
    if value == 0 and not zero:
        raise ValueError(f"{name} must be greater than zero")
    if value == math.inf and not endless:
        raise ValueError(f"{name} must be finite")
    if math.inf > value > 0:
        raise ValueError(f"{name} must not be greater than any float")
    if not value >= 0:
        raise ValueError(f"{name} must not be negative or NaN, not {value!r}")


def instance(name: str, value: object, kind: type, hint: str = "") -> None:
    """An instance of `kind`; what is not gets the hint, the class in its place another."""
    if isinstance(value, kind):
        return
    if isinstance(value, type) and issubclass(value, kind):
        hint = f"a class: did you mean {value.__name__}(...)?"
    article = "an" if kind.__name__[0] in "AEIOU" else "a"
    what = f"{article} {kind.__name__}"
    raise TypeError(f"{name} must be {what}, not {value!r}{hint and f' ({hint})'}")
