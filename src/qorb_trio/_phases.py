"""`finish`: runs a computation that is made in phases, with a pause after each, in one go."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias, TypeVar

T = TypeVar("T")

#: A computation; between two of its phases, the caller may do other things.
Phases: TypeAlias = Generator[None, None, T]


def finish(phases: Phases[T]) -> T:
    """Return the result of a computation, without a pause."""
    while True:
        try:
            next(phases)
        except StopIteration as stop:
            result: T = stop.value
            return result
