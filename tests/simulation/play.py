"""Playing a world: the pool is opened, the actions happen, everything is checked."""

from __future__ import annotations

import gc
import logging
import math
import random
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import attrs
import pytest
import trio

from qorb_trio import Instrument, Policy, PoolStats, PoolTerminatedError

from ..harness import OK, Bench, LedgerConnection, LedgerConnector, open_bench, run
from ..harness.ledger import Dial
from .actions import AtStep, BodyError, Cue, Set
from .loans import Loans
from .saboteur import Saboteur
from .statements import NineStatements
from .watched import Wired
from .worlds import HOOKS, NAMES, World, make_world

#: The events that a run counts.
COUNTS = (
    *("granted", "cancelled", "refused", "raised", "failed", "discarded", "leaked", "dials"),
    *("cues", "hung up", "from threads"),
)


#: Marks a violation in a trace.
WRONG = "!!!"


@attrs.frozen
class Outcome:
    """The result of one simulation."""

    steps: int
    tally: Counter[str]
    violations: list[str]
    trace: list[str]


@final
class Play:
    """One run of a world; the actions work on it."""

    def __init__(self, world: World, *, tracing: bool) -> None:
        self.world = world
        self.connector = world.kind()
        self.saboteur = Saboteur()
        self.tally: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
        self.clients: dict[trio.CancelScope, None] = {}
        self.cues: dict[str, list[list[Any]]] = {}
        self.body = trio.CancelScope()
        self.leaving = trio.CancelScope()
        self.leave_by: BodyError | None = None
        #: The backends that fail each claim at once, and those that never answer.
        self.fail_fast: set[str] = set()
        self.silent: set[str] = set()
        self.body_left = False
        self.final = False
        self.ended = False
        self.mended = False
        self.bench: Bench
        self.trace: list[str] | None = [] if tracing else None
        self._shown = ""
        self._told = 0
        self.connector.ledger.on_note = self._noted

    # ------------------------------------------------------------------ what happens

    @contextmanager
    def cancelling(self, cancel: AtStep | float) -> Iterator[trio.CancelScope]:
        """Cancel the block after `cancel` seconds, or at a step of this task."""
        deadline = math.inf
        if not isinstance(cancel, AtStep):
            deadline = trio.current_time() + cancel
        with trio.CancelScope(deadline=deadline) as scope:
            if isinstance(cancel, AtStep):
                self.saboteur.aim(cancel.k, cancel.when, scope)
            yield scope

    def ends(self) -> None:
        """Note that a task begins to end the pool."""
        watch = self.bench.watch
        assert isinstance(watch, NineStatements)
        watch.ending = self.ended = True

    def note(self, text: str) -> None:
        """Something for the trace."""
        if self.trace is not None:
            self.trace.append(f"{trio.current_time():9.2f} {self.bench.watch.steps:6} {text}")

    def show(self, stats: PoolStats) -> None:
        """Note the pool's state, if it has changed, and new violations in the trace."""
        sets = (
            f"{name}: {one.connecting}/{one.unclaimed}/{one.checking}/{one.claimed}/{one.closing}"
            for name, one in stats.backends.items()
        )
        text = f"    = {'  '.join(sets)}  departed {stats.departed}, waiting {stats.waiting}"
        if text != self._shown:
            self._shown = text
            self.note(text)
        violations = self.connector.ledger.violations
        while self._told < len(violations):
            self.note(f"{WRONG} {violations[self._told]}")
            self._told += 1

    def _noted(self, what: str, whom: LedgerConnection | Dial) -> None:
        watch = self.bench.watch
        assert isinstance(watch, NineStatements)
        watch.heard(what, whom)
        if self.trace is not None:
            who = f"#{whom.number}" if isinstance(whom, LedgerConnection) else "-"
            self.note(f"  {who} of {whom.backend.name}: {what}")
        for waiting in self.cues.get(what, []):
            waiting[0] -= 1
            if waiting[0] == 0:
                cue: Cue = waiting[1]
                cue.fire(self)

    # ------------------------------------------------------------------- the course

    async def run(self) -> None:
        """The whole of it."""
        world = self.world
        watches_loans = issubclass(world.kind, LedgerConnector)
        loans = Loans(calm=world.calm and not world.has_extras, choosy=world.is_choosy)
        instruments: Sequence[Instrument] = [loans] if watches_loans else []
        try:
            with self.body:
                async with open_bench(
                    world.backends,
                    policy=world.policy,
                    connector=self.connector,
                    instruments=instruments,
                    watch_with=NineStatements,
                    rng=random.Random(world.seed),
                    balancer=world.balancer,
                ) as self.bench:
                    watch = self.bench.watch
                    assert isinstance(watch, NineStatements)
                    loans.watch = watch
                    watch.is_calm = world.calm
                    if self.trace is not None:
                        watch.on_stats = self.show
                    try:
                        await self._body()
                    finally:
                        self.body_left = True
                        self.ends()
        except BodyError as exc:
            if exc is not self.leave_by:
                raise
        finally:
            if isinstance(self.connector, Wired):
                self.connector.close_wires()

    async def _body(self) -> None:
        with self.leaving:
            begin = trio.current_time()
            for at, action in self.world.actions:
                if begin + at > trio.current_time():
                    await trio.sleep_until(begin + at)
                self.note(f"* {action}")
                action.do(self)
            await self._recover()
        if self.leave_by is not None:
            raise self.leave_by

    async def _recover(self) -> None:
        """All is well again, so all must be well with the pool."""
        bench, world = self.bench, self.world
        self.mended = True
        bench.pool.resume()
        if not self.ended:
            bench.reconfigure(without_rules(world.policy))
        self.cues.clear()
        for hook in HOOKS:
            for backend in (None, *NAMES):
                bench.script.always(hook, OK, backend=backend)
        self.connector.born_broken.clear()
        self.fail_fast.clear()
        self.silent.clear()
        Set(world.backends).do(self)
        self.note("* all is well again")
        config = world.policy.set_config
        await bench.settle(1)  # somebody may have been started just now
        while self.clients:
            await bench.settle(1)
        self.collect()
        await bench.settle(_time_to_recover(world.policy))
        if self.ended:
            await self._has_ended()
            return
        assert bench.stats().waiting == bench.count("claimed") == 0
        self._check_spread()
        tier = min((backend.priority for backend in world.backends), default=0)
        best = [backend for backend in world.backends if backend.priority == tier]
        room = min(world.policy.max_slots, config.max_count * len(best))
        held = [await bench.acquire(timeout=20) for _ in range(room)]
        for claim in held:
            bench.release(claim)
        await bench.settle(1)

    def collect(self, *, thoroughly: bool = False) -> None:
        """Let go of the claims that were lost: they may be in a cycle.

        A lost claim may also be in a frame of a task that cancelled another one, because the
        traceback of that cancellation refers to the frame.
        """
        self.connector.ledger.returned.clear()
        if thoroughly or self.tally["leaked"]:
            gc.collect()

    async def _has_ended(self) -> None:
        """The pool has been ended: it ends, and serves no more."""
        await self.bench.terminate()
        with pytest.raises(PoolTerminatedError):
            await self.bench.acquire()

    def _check_spread(self) -> None:
        """Statement 8 at rest: by weight, within the best priority."""
        policy = self.world.policy
        if policy.max_slots == 1:
            return  # the last connected slot never gives way, wherever it leads
        sets = list(self.bench.stats().backends.values())
        tier = min((one.backend.priority for one in sets), default=0)
        best = [one for one in sets if one.backend.priority == tier]
        # A spare may just have been found broken.
        have = {one.backend: one.unclaimed + one.checking + one.connecting for one in best}
        if math.isinf(policy.rebalance_interval):
            return  # a change of weights alone moves nothing until then
        if policy.spares_wanted >= len(best) and policy.max_slots >= len(best):
            assert all(have.values()), f"somebody has nothing: {have}"
        if policy.rebalance_interval > 3:
            return
        assert not any(one.unclaimed + one.checking for one in sets if one not in best), sets
        total = min(policy.max_slots, policy.spares_wanted, policy.set_config.max_count * len(best))
        assert sum(have.values()) == total, f"{have}, {total} wanted"
        for one, held in have.items():
            for other, has in have.items():
                # Nobody has so much that another has a better claim to the last of it.
                full = has >= policy.set_config.max_count
                fair = held < 2 or full or held / _share(one) <= (has + 1) / _share(other)
                assert fair or not has, f"{one!r} has {held}, {other!r} only {has}"

    def outcome(self, wrong: list[str]) -> Outcome:
        """Return the result of the simulation."""
        ledger = self.connector.ledger
        self.tally["granted"] = ledger.granted
        self.tally["dials"] = len(ledger.dials)
        return Outcome(self.bench.watch.steps, self.tally, wrong, self.trace or [])


def without_rules(policy: Policy) -> Policy:
    """The same policy, but no claimant is refused, nothing grows old, and none is ejected."""
    off = math.inf
    config = attrs.evolve(
        policy.set_config,
        max_lifetime=off,
        idle_timeout=off,
        max_uses=off,
        max_connecting=off,
        slow_start=0,
    )
    return attrs.evolve(
        policy,
        max_waiting=off,
        fail_fast_after=off,
        queue_target=off,
        ejection=None,
        set_config=config,
    )


def _time_to_recover(policy: Policy) -> float:
    """Return the maximum time in seconds until the pool has recovered and is at rest."""
    config = policy.set_config
    if config.connect_timeout == math.inf:
        return 150  # a backend that seems to hang is given ever more time
    found = config.health_interval if config.health_interval < math.inf else 0  # to be broken
    rebalances = 4 * policy.rebalance_interval if policy.rebalance_interval <= 3 else 0
    return found + 2 * (config.connect_timeout + config.max_connection_backoff) + rebalances + 4


def _share(backend: Any) -> float:
    return backend.weight or 0.5


def simulate(seed: int, *, only: Sequence[int] | None = None, tracing: bool = False) -> Outcome:
    """Run the world of that seed, or some of its actions only."""
    with _listening([]):
        outcome = _simulate(seed, only, tracing=tracing)
        if outcome.violations:
            gc.collect()  # what is left of it is not to be found by the next
    return outcome


def _simulate(seed: int, only: Sequence[int] | None, *, tracing: bool) -> Outcome:
    world = make_world(seed)
    if only is not None:
        world = attrs.evolve(world, actions=tuple(world.actions[i] for i in only))
    play = Play(world, tracing=tracing)
    wrong: list[str] = []
    with _listening(wrong) as caught:
        try:
            run(play.run, seed=f"simulation {seed}", instruments=[play.saboteur])
        except BaseException as exc:
            if isinstance(exc, KeyboardInterrupt):
                raise
            wrong += play.connector.ledger.violations or _messages(exc)
        play.collect(thoroughly=bool(wrong))
    lost = sum(issubclass(one.category, ResourceWarning) for one in caught)
    if lost != play.tally["leaked"]:
        wrong.append(f"{lost} claims are said to be lost, not {play.tally['leaked']}")
    wrong += [str(one.message) for one in caught if one.category is not ResourceWarning]
    return play.outcome(wrong)


def _messages(exc: BaseException) -> list[str]:
    if isinstance(exc, BaseExceptionGroup):
        return [line for one in exc.exceptions for line in _messages(one)]
    return [f"{type(exc).__name__}: {exc}"]


@contextmanager
def _listening(wrong: list[str]) -> Iterator[list[warnings.WarningMessage]]:
    """Warnings are counted, what is raised in a ``__del__`` is wrong, and logs are off."""

    def unraisable(what: Any) -> None:
        wrong.append(f"raised where nobody can catch it: {what.exc_value!r}")

    gc.freeze()  # what was there before is no garbage of ours: to look at it takes long
    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield caught
    finally:
        logging.disable(disabled)
        sys.unraisablehook = hook
        gc.unfreeze()
