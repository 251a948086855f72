"""The simulation can fail: faults that are planted are found, shrunk and explained."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio

from qorb_trio._balancing import idle_index as _balancer
from qorb_trio._claims import claim as _claim, dispatcher as _core, wait_queue as _line
from qorb_trio._connections import dialer as _worker, hooks as _hooks
from qorb_trio._planning import planner as _planner
from qorb_trio._pool import rebalancer as _rebalancer
from qorb_trio._slots import slot_set as _slot_set, state as _slot

from .__main__ import main
from .play import WRONG, simulate
from .reduce import reduce

#: A fault must be found in so many simulations.
ENOUGH = 100


def one_too_many(patch: pytest.MonkeyPatch) -> None:
    """The planner believes that there is room for one more."""
    demand = _rebalancer.Rebalancer._demand

    def wrong(self: Any, views: Any) -> Any:
        right = demand(self, views)
        return attrs.evolve(right, max_slots=right.max_slots + 1)

    patch.setattr(_rebalancer.Rebalancer, "_demand", wrong)


def forgotten_while_closing(patch: pytest.MonkeyPatch) -> None:
    """A slot counts no more as soon as its connection begins to be closed."""
    start, closed = _core.Core.start_closing, _slot_set.SlotSet.closed

    def wrong(self: Any, slot: Any) -> None:
        start(self, slot)
        connection = slot.connection
        closed(slot.home, slot)
        slot.connection = connection

    def once(self: Any, slot: Any) -> None:
        if slot.state is not _slot.CLOSED:
            closed(self, slot)

    patch.setattr(_core.Core, "start_closing", wrong)
    patch.setattr(_slot_set.SlotSet, "closed", once)


def a_wake_up_is_skipped(patch: pytest.MonkeyPatch) -> None:
    """What becomes free is put on the shelf, whoever waits."""
    patch.setattr(_core.Core, "offer", lambda self, slot: slot.home.shelve(slot))


def the_last_comes_first(patch: pytest.MonkeyPatch) -> None:
    """The line is a stack."""
    serve = _line.WaitQueue.hand_off

    def wrong(self: Any, slot: Any) -> Any:
        if self._queue:
            self._queue.rotate()
        return serve(self, slot)

    patch.setattr(_line.WaitQueue, "hand_off", wrong)


def the_dead_take_everything(patch: pytest.MonkeyPatch) -> None:
    """Failing backends may have as many slots as there are."""
    init = _planner._Planner.__init__

    def wrong(self: Any, *args: Any) -> None:
        init(self, *args)
        self.failing_limit = self.room

    patch.setattr(_planner._Planner, "__init__", wrong)


def the_dead_stay_dead(patch: pytest.MonkeyPatch) -> None:
    """Failing backends are not probed while anything is connected."""
    divide = _planner._Planner._divide

    def wrong(self: Any, *args: Any) -> Any:
        division = divide(self, *args)
        if self.connected:
            division.probes.clear()
        return division

    patch.setattr(_planner._Planner, "_divide", wrong)


def lent_by_who_has_left(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks whether the backend has left while the claimant slept."""
    patch.setattr(_claim.Claim, "_still_good", lambda self, slot: self._held is not None)


def the_busiest_serves(patch: pytest.MonkeyPatch) -> None:
    """Claims go to whoever has most of them."""

    def wrong(self: Any) -> Any:
        return max(self.best, key=lambda item: item.load)

    patch.setattr(_balancer.IdleIndex, "choose", wrong)


def the_cancelled_keep_what_they_have(patch: pytest.MonkeyPatch) -> None:
    """Who is cancelled between grant and body does not give back what was granted."""
    end = _claim.Claim._end

    def wrong(self: Any, exc: BaseException | None, *, keep: bool) -> None:
        if not isinstance(exc, trio.Cancelled):
            end(self, exc, keep=keep)

    patch.setattr(_claim.Claim, "_end", wrong)


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


#: One fault at least for each statement: who plants it, and what must be said of it.
FAULTS = [
    pytest.param(one_too_many, "slots pass max_slots", id="1"),
    pytest.param(forgotten_while_closing, "connections in", id="2"),
    pytest.param(a_wake_up_is_skipped, "claimants wait beside", id="3"),
    pytest.param(the_last_comes_first, "came before one that was served", id="4"),
    pytest.param(lent_as_it_is, "lent without being recycled", id="5"),
    pytest.param(the_dead_take_everything, "[6] ", id="6, half of the cap"),
    pytest.param(the_dead_stay_dead, "was not probed since", id="6, turns"),
    pytest.param(lent_by_who_has_left, "lent from a removed backend", id="7"),
    pytest.param(the_busiest_serves, "[8] lent from", id="8"),
    pytest.param(the_cancelled_keep_what_they_have, "claims are said to be lost", id="9"),
    pytest.param(closed_twice, "disconnected twice", id="the end"),
]

EXPLAINED = [
    (one_too_many, "slots pass max_slots"),
    (a_wake_up_is_skipped, "claimants wait beside"),
]


def first_failure(text: str) -> int:
    """The first seed that finds something of that kind."""
    return next(
        seed
        for seed in range(ENOUGH)
        if any(text in violation for violation in simulate(seed).violations)
    )


@pytest.mark.parametrize(("fault", "text"), FAULTS)
def test_a_planted_fault_is_found(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[[pytest.MonkeyPatch], None], text: str
) -> None:
    """A fault against each of the nine statements is found in a few simulations."""
    fault(monkeypatch)
    assert first_failure(text) < ENOUGH


@pytest.mark.parametrize(("fault", "text"), EXPLAINED)
def test_what_is_found_is_explained(
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
