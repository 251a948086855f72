"""The simulation can fail: faults that are planted are found, shrunk and explained."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio

from qorb_trio import Backend
from qorb_trio._balancing.idle_index import IdleIndex
from qorb_trio._claims.claim import Claim
from qorb_trio._claims.dispatcher import Dispatcher
from qorb_trio._claims.wait_queue import WaitQueue
from qorb_trio._connections.checker import Checker
from qorb_trio._connections.closer import Closer
from qorb_trio._connections.hooks import Hooks
from qorb_trio._connections.outcomes import Outcomes
from qorb_trio._connections.retirement import Retirement
from qorb_trio._planning import division as _division, make_plan as _make_plan
from qorb_trio._planning.situation import Situation
from qorb_trio._pool.rebalancer import Rebalancer
from qorb_trio._slots.state import CLOSED

from ..harness import Ledger
from .__main__ import main
from .loans import Loans
from .play import WRONG, simulate
from .reduce import reduce

#: Number of simulations within which a fault must be found.
ENOUGH = 100


def one_too_many(patch: pytest.MonkeyPatch) -> None:
    """The planner believes that there is room for one more."""
    demand = Rebalancer._collect_demand

    def wrong(self: Any, *args: Any) -> Any:
        right = demand(self, *args)
        return attrs.evolve(right, max_slots=right.max_slots + 1)

    patch.setattr(Rebalancer, "_collect_demand", wrong)


def forgotten_while_closing(patch: pytest.MonkeyPatch) -> None:
    """A slot counts no more as soon as its connection begins to be closed."""
    close, finish = Closer.close, Closer.finish

    def wrong(self: Any, slot: Any) -> None:
        connection = slot.connection
        close(self, slot)
        if slot.state is not CLOSED:
            slot.slot_set.transition(slot, CLOSED)
            slot.connection = connection

    def once(self: Any, slot: Any) -> None:
        if slot.state is not CLOSED:
            finish(self, slot)

    patch.setattr(Closer, "close", wrong)
    patch.setattr(Closer, "finish", once)


def a_wake_up_is_skipped(patch: pytest.MonkeyPatch) -> None:
    """A connection that becomes free is made a spare, although a claimant waits."""
    patch.setattr(Dispatcher, "offer", lambda self, slot: slot.slot_set.push_free(slot))


def the_last_comes_first(patch: pytest.MonkeyPatch) -> None:
    """The queue is a stack."""
    hand_off = WaitQueue.hand_off

    def wrong(self: Any, slot: Any) -> Any:
        if self._queue:
            self._queue.rotate()
        return hand_off(self, slot)

    patch.setattr(WaitQueue, "hand_off", wrong)


def the_dead_take_everything(patch: pytest.MonkeyPatch) -> None:
    """Failing backends may have as many slots as there are."""
    init = Situation.__init__

    def wrong(self: Any, *args: Any) -> None:
        init(self, *args)
        self.max_probes = self.room

    patch.setattr(Situation, "__init__", wrong)


def the_dead_stay_dead(patch: pytest.MonkeyPatch) -> None:
    """Failing backends are not probed while anything is connected."""
    divide = _division.divide

    def wrong(situation: Any) -> Any:
        division = yield from divide(situation)
        if situation.connected:
            division.probes.clear()
        return division

    patch.setattr(_make_plan, "divide", wrong)


def lent_by_who_has_left(patch: pytest.MonkeyPatch) -> None:
    """No check is made whether the backend has left while the claimant slept."""
    patch.setattr(Claim, "_is_usable", lambda self, slot: self._held is not None)


def the_busiest_serves(patch: pytest.MonkeyPatch) -> None:
    """Claims go to the backend that has most of them."""

    def wrong(self: Any, tier: Any = None) -> Any:
        return max(tier or self.best, key=lambda item: item.claimed)

    patch.setattr(IdleIndex, "choose", wrong)


def the_cancelled_keep_what_they_have(patch: pytest.MonkeyPatch) -> None:
    """A claim that is released as a cancellation passes keeps its connection."""
    release = Claim.release

    def wrong(self: Any) -> None:
        if not isinstance(sys.exception(), trio.Cancelled):
            release(self)

    patch.setattr(Claim, "release", wrong)


def closed_twice(patch: pytest.MonkeyPatch) -> None:
    """A connection whose check fails is closed by the check, and by the slot set."""
    bounded = Checker._bounded

    async def wrong(self: Any, slot: Any, hook: Any, what: str) -> Any:
        failure = await bounded(self, slot, hook, what)
        if failure is not None:
            await self._hooks.disconnect(slot.connection)
        return failure

    patch.setattr(Checker, "_bounded", wrong)


def lent_as_it_is(patch: pytest.MonkeyPatch) -> None:
    """A connection that comes back is not recycled."""

    async def wrong(self: Any, connection: Any) -> None:
        await trio.lowlevel.checkpoint()

    patch.setattr(Hooks, "recycle", wrong)


def the_old_are_lent(patch: pytest.MonkeyPatch) -> None:
    """A connection that comes back is lent again, however old and however much used."""
    patch.setattr(Retirement, "is_over", lambda self, slot: False)


def idle_closes_count(patch: pytest.MonkeyPatch) -> None:
    """A peer that closes an idle connection has failed."""
    patch.setattr(Outcomes, "_is_stale", lambda *args: False)


def threads_are_welcome(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks in which thread a method is called."""
    patch.setattr(Dispatcher, "check_run", lambda self: None)


def dialled_at_once(patch: pytest.MonkeyPatch) -> None:
    """The planner forgets `max_connecting`."""
    set_limits = Rebalancer._set_limits

    def wrong(self: Any, views: Any) -> Any:
        yield from set_limits(self, views)
        for view in views:
            view.max_connecting = math.inf

    patch.setattr(Rebalancer, "_set_limits", wrong)


#: At least one fault for each statement: its function, and a part of the complaint.
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
    pytest.param(the_old_are_lent, "[5] lent ", id="5, age"),
    pytest.param(dialled_at_once, "at once, of ", id="max_connecting"),
    pytest.param(idle_closes_count, "[10] nothing has failed", id="10"),
    pytest.param(threads_are_welcome, "in a thread is not refused", id="threads"),
]

EXPLAINED = [
    (one_too_many, "slots pass max_slots"),
    (a_wake_up_is_skipped, "claimants wait beside"),
]


#: The first seed to try for rare faults, so that the test is short.
FIRST = {"[5] lent ": 45, "[10] nothing has failed": 10}


def first_failure(text: str) -> int:
    """The first seed that finds something of that kind."""
    return next(
        seed
        for seed in range(FIRST.get(text, 0), ENOUGH)
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
    """A failure is reduced to a few actions, and printed with its trace and a way to replay it."""
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


@pytest.mark.parametrize(("until", "is_wrong"), [(0.0, False), (math.inf, True)])
async def test_a_loan_of_an_ejected_backend_is_found(until: float, is_wrong: bool) -> None:
    """A spare of an ejected backend may be lent for its trial, which is due at the end only."""
    stats: Any = SimpleNamespace(backends={"a": SimpleNamespace(ejected_until=until)})
    watch: Any = SimpleNamespace(pool=SimpleNamespace(stats=lambda: stats), ledger=Ledger())
    loans = Loans(calm=False)
    loans.watch = watch
    loans.slot_state_change("pool", 0, Backend(("a.test", 1), name="a"), "unclaimed", "claimed")
    assert bool(watch.ledger.violations) is is_wrong


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints its totals, and can simulate one seed with some of its actions."""
    assert main(["--seeds", "2", "--processes", "1"]) == 0
    assert capsys.readouterr().out.startswith("2 seeds, ")
    assert main(["--first", "1", "--only", "0"]) == 0
    assert "with 1 of its " in capsys.readouterr().out


def test_reduce() -> None:
    """`reduce` keeps the actions that are needed, and leaves out the others."""
    for needed in itertools.combinations(range(8), 3):
        assert reduce(range(8), lambda kept: set(needed) <= set(kept)) == list(needed)
    assert reduce(range(100), lambda kept: True) == []
    assert reduce(range(100), lambda kept: 99 in kept, tries=3) != [99]
