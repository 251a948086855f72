"""The simulation can fail: faults that are planted are found, shrunk and explained."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio

from qorb_trio import _hooks, _rebalancer, _worker

from .__main__ import main
from .play import WRONG, simulate
from .reduce import reduce

#: A fault must be found in so many simulations.
ENOUGH = 30


def one_too_many(patch: pytest.MonkeyPatch) -> None:
    """The planner believes that there is room for one more."""
    demand = _rebalancer.Rebalancer._demand

    def wrong(self: Any, views: Any) -> Any:
        right = demand(self, views)
        return attrs.evolve(right, max_slots=right.max_slots + 1)

    patch.setattr(_rebalancer.Rebalancer, "_demand", wrong)


def closed_twice(patch: pytest.MonkeyPatch) -> None:
    """A connection whose check fails is closed by the check, and by the slot set."""
    examine = _worker.Worker._examine

    async def wrong(self: Any, slot: Any, event: str) -> Any:
        failure = await examine(self, slot, event)
        if failure is not None:
            await self._core.hooks.disconnect(slot.connection)
        return failure

    patch.setattr(_worker.Worker, "_examine", wrong)


def lent_as_it_is(patch: pytest.MonkeyPatch) -> None:
    """A connection that comes back is not recycled."""

    async def wrong(self: Any, connection: Any) -> None:
        await trio.lowlevel.checkpoint()

    patch.setattr(_hooks.Hooks, "recycle", wrong)


FAULTS = [
    (one_too_many, "slots pass max_slots"),
    (closed_twice, "disconnected twice"),
    (lent_as_it_is, "lent without being recycled"),
]


def first_failure(text: str) -> int:
    """The first seed that finds something of that kind."""
    return next(
        seed
        for seed in range(ENOUGH)
        if any(text in violation for violation in simulate(seed).violations)
    )


@pytest.mark.parametrize(("fault", "text"), FAULTS)
def test_a_planted_fault_is_found_and_explained(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: Callable[[pytest.MonkeyPatch], None],
    text: str,
) -> None:
    """It is shrunk to a few actions, and told with its trace and how to replay it."""
    fault(monkeypatch)
    seed = first_failure(text)
    assert main(["--seeds", "1", "--first", str(seed), "--processes", "1"]) == 1
    *lines, replay, short, _, summary = capsys.readouterr().out.splitlines()
    assert replay.endswith(f"nox -s simulate -- --seeds 1 --first {seed}")
    assert summary.startswith("1 seeds, ")
    assert any(line.startswith(f"seed {seed}: ") for line in lines)
    assert any(WRONG in line for line in lines)
    chosen = [int(number) for number in short.split("'")[1].split(",") if number]
    assert len(chosen) <= 8
    assert simulate(seed, only=chosen).violations


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """It tells how much was simulated, and of one seed with some of its actions only."""
    assert main(["--seeds", "2", "--processes", "1"]) == 0
    assert capsys.readouterr().out.startswith("2 seeds, ")
    assert main(["--first", "1", "--only", "0"]) == 0
    assert "with 1 of its " in capsys.readouterr().out


def test_reduce() -> None:
    """Whatever is needed is kept, whatever is not is left out."""
    for needed in itertools.combinations(range(8), 3):
        assert reduce(range(8), lambda kept: set(needed) <= set(kept)) == list(needed)
    assert reduce(range(100), lambda kept: True) == []
    assert reduce(range(100), lambda kept: 99 in kept, tries=3) != [99]
