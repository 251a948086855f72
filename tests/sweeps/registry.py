"""The scenarios: each sweeps some of the public awaits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import attrs

from ..harness import Sweep
from .awaits import Await

Run: TypeAlias = Callable[[Sweep], Awaitable[object]]


@attrs.frozen
class Scenario:
    """A way to sweep some awaits."""

    name: str
    run: Run
    of: tuple[Await, ...]
    """The awaits that it sweeps."""
    by: tuple[Await, ...]
    """The functions in which the target must be found waiting: these, or what implements them."""
    real: bool
    """True if it needs real time and real sockets."""
    seeds: int


SCENARIOS: list[Scenario] = []


def sweeps(
    *of: Await,
    name: str,
    by: tuple[Await, ...] | None = None,
    real: bool = False,
    seeds: int = 2,
) -> Callable[[Run], Run]:
    """Register a scenario; see `Scenario`."""

    def register(run: Run) -> Run:
        SCENARIOS.append(Scenario(name, run, of, of if by is None else by, real, seeds))
        return run

    return register
