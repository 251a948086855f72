"""`InvariantInstrument`: the statements of the contract, checked after every task step.

The checks use public information only: the connector's ledger, ``stats()`` and the pool's
events. There are two kinds of check:

* after every task step: caps, one state and one holder for each connection, no claimant
  parked beside a spare, counts that add up, no dial to a removed backend;
* when no task is runnable: there is a connection on its way for every parked claimant, no
  spare of a removed backend, and the pool has exactly the connections of the ledger. These
  can be false between two steps, because the pool plans in a task of its own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import trio

from qorb_trio import Backend, BackendStats, Instrument, Policy, Pool, PoolStats

from .ledger import Ledger, LedgerConnection, PlainLedgerConnector

EVENTS = [name for name in vars(Instrument) if not name.startswith("_")]

#: Seconds of a dial after which the pool may suspect that the backend hangs.
SLOW = 1.0

#: If dials have taken long, one may be suspect only after this many times as long.
SLOW_FACTOR = 3.0

#: Maximum time in seconds that a connection must last before its backend is trusted again.
PROBATION = 1.0

#: A test that takes more steps than this is in a loop.
MAX_STEPS = 150_000


def slots_of(stats: BackendStats) -> int:
    """All slots of one backend."""
    return stats.connecting + stats.unclaimed + stats.checking + stats.claimed + stats.closing


class EventLog(Instrument):
    """Writes down every event of the pool, and checks the order of grants."""

    def __init__(self) -> None:
        self.events: list[tuple[str, tuple[Any, ...]]] = []
        self.violation: Callable[[str], None] | None = None
        self.batch: Callable[[], int] = lambda: 0
        self._parked: dict[int, tuple[int, int] | None] = {}
        self._since: dict[int, int] = {}

    def record(self, name: str, args: tuple[Any, ...]) -> None:
        """Called for each event."""
        self.events.append((name, args))
        if name in ("claim_start", "claim_acquire_failed"):
            self._parked[args[1]] = None
            self._since[args[1]] = self.batch() if name == "claim_acquire_failed" else -1
        elif name == "handle_claimed":
            self._grant(args[1])
        elif name in ("claim_done", "claim_failed"):
            self._parked.pop(args[1], None)

    def _grant(self, claim: int) -> None:
        # Claimants that are handed their connections in one batch wake in any order, so
        # only one that was passed in an earlier batch has really been passed. And who wakes
        # in the batch in which another's ``on_acquire`` failed was served before that.
        passed = self._parked.pop(claim, None)
        if passed is not None and passed[1] < self.batch() and self.violation is not None:
            self.violation(f"claim {passed[0]} was served before claim {claim}, which came first")
        for other in self._parked:
            parked = self._parked[other] is None and self._since[other] < self.batch()
            if other < claim and parked:
                self._parked[other] = (claim, self.batch())

    def of(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of each event of one kind."""
        return [args for event, args in self.events if event == name]


def _recorder(name: str) -> Callable[..., None]:
    def method(self: EventLog, *args: Any) -> None:
        self.record(name, args)

    method.__name__ = name
    return method


for _event in EVENTS:
    setattr(EventLog, _event, _recorder(_event))


def _fails(one: BackendStats) -> bool:
    """Return True if a failure counts against the backend; a failed close does not."""
    return one.failures > 0 and not str(one.last_error).startswith("disconnect took")


@attrs.define
class _Queue:
    """The order of arrival, and of being served, as the clients themselves see it."""

    arrived: int = 0
    waiting: dict[int, float | None] = attrs.field(factory=dict)

    def arrive(self) -> int:
        self.arrived += 1
        self.waiting[self.arrived] = None
        return self.arrived

    def serve(self, number: int, when: float) -> str | None:
        passed = self.waiting.pop(number)
        for other, since in self.waiting.items():
            if other < number and since is None:
                self.waiting[other] = when
        if passed is not None and passed < when:
            return f"client {number} came before one that was served at {passed:.6g}"
        return None


class InvariantInstrument(trio.abc.Instrument):
    """Holds the ledger against what the pool says, after every task step.

    A violation is written into the ledger: an instrument that raises would only be
    removed. `Bench` fails the test for it.
    """

    max_steps = MAX_STEPS

    def __init__(self, connector: PlainLedgerConnector, policy: Policy) -> None:
        self.connector = connector
        self.ledger: Ledger = connector.ledger
        self.policy = policy
        self.pool: Pool[LedgerConnection] | None = None
        self.scope: trio.CancelScope | None = None
        self.queue = _Queue()
        self._clients: dict[trio.lowlevel.Task, int] = {}
        self.ledger.on_lend = self._lent
        self.batch = 0
        self.steps = 0
        self.idle_checks = 0
        self._known: dict[Backend, None] = {}
        self._dials_seen = 0
        self._claims = 0
        #: By backend, its last error, and when that was first seen.
        self._errors: dict[Backend, tuple[Exception | None, float]] = {}
        self.on_stats: Callable[[PoolStats], None] | None = None
        #: By how much a cap that was lowered is passed, in all and by backend.
        self._excess: Counter[Backend | None] = Counter()

    def reconfigured(self, policy: Policy, stats: PoolStats) -> None:
        """Go by another policy from now on; what there is now may pass its caps."""
        self.policy = policy
        for key, count in self._taken(stats).items():
            self._excess[key] = count - self._cap(key)

    # ---------------------------------------------------------- what trio calls

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """The checks of every step."""
        self.steps += 1
        if self.steps > self.max_steps and self.scope is not None:
            self.ledger.violation(f"still running after {self.max_steps} steps: a loop")
            self.stop()
        if self.pool is not None and len(self.ledger.violations) < 20:
            self._guarded(self.every_step)

    def stop(self) -> None:
        """End the run, at once."""
        if self.scope is not None:
            self.scope.cancel()
            self.scope = None

    def before_io_wait(self, timeout: float) -> None:
        """The checks of every moment at which nothing is runnable."""
        self.batch += 1
        if self.pool is None or len(self.ledger.violations) >= 20:
            return
        now = trio.lowlevel.current_statistics()
        runnable = now.tasks_runnable + now.run_sync_soon_queue_size
        if runnable == 0 and now.seconds_to_next_deadline > 0:
            self.idle_checks += 1
            self._guarded(self.when_idle)

    def _guarded(self, check: Callable[[PoolStats], None]) -> None:
        assert self.pool is not None
        try:
            stats = self.pool.stats()
            check(stats)
            if self.on_stats is not None:
                self.on_stats(stats)
        except Exception as exc:
            self.ledger.violation(f"the check of the invariants failed: {exc!r}")
            self.pool = None

    # -------------------------------------------------------------- every step

    def every_step(self, stats: PoolStats) -> None:
        """Statements 1, 2, 3 (the first half), 5 and 7."""
        self._note_errors(stats)
        self._check_backends(stats)
        self._check_caps(stats)
        self._check_counts(stats)

    def _check_backends(self, stats: PoolStats) -> None:
        known = {one.backend: None for one in stats.backends.values()}
        for backend in self._known:
            if backend not in known:
                self.ledger.depart(backend)
                # A claimant that was just being served from there has to wait again. Its
                # place in the order of arrival is not known here, so the order is dropped.
                self.queue.waiting.clear()
        self._known = known
        for dial in self.ledger.dials[self._dials_seen :]:
            if dial.backend not in known:
                self.ledger.violation(f"a dial to {dial.backend.name}, which is not in the set")
        self._dials_seen = len(self.ledger.dials)

    def _check_caps(self, stats: PoolStats) -> None:
        ledger = self.ledger
        used = self._connections()
        if self._excess:
            self._shrink_excess(stats)
        most_slots = self.policy.max_slots + max(0, self._excess[None])
        if used.total() > most_slots:
            ledger.violation(f"{used.total()} connections pass max_slots")
        for backend, count in used.items():
            if count > self._cap(backend) + max(0, self._excess[backend]):
                ledger.violation(f"{count} connections to {backend.name} pass max_count")
        if stats.slots > most_slots:
            ledger.violation(f"{stats.slots} slots pass max_slots: {stats!r}")
        if used.total() > stats.slots:
            ledger.violation(f"{used.total()} connections in {stats.slots} slots: {stats!r}")

    def _connections(self) -> Counter[Backend]:
        used = Counter(conn.backend for conn in self.ledger.live)
        used.update(dial.backend for dial in self.ledger.dialling)
        return used

    def _taken(self, stats: PoolStats) -> dict[Backend | None, int]:
        """Count the slots of each backend, and under `None` all of them."""
        taken: dict[Backend | None, int] = {}
        taken.update(self._connections().items())
        for one in stats.backends.values():
            here = slots_of(one) + self._departed(one.backend)
            taken[one.backend] = max(here, taken.get(one.backend, 0))
        taken[None] = stats.slots
        return taken

    def _cap(self, backend: Backend | None) -> int:
        policy = self.policy
        return policy.max_slots if backend is None else policy.set_config.max_count

    def _shrink_excess(self, stats: PoolStats) -> None:
        """Count down what passes a lowered cap: it must not grow again."""
        taken = self._taken(stats)
        for key, excess in list(self._excess.items()):
            self._excess[key] = min(excess, taken.get(key, 0) - self._cap(key))
            if self._excess[key] <= 0:
                del self._excess[key]

    def _check_counts(self, stats: PoolStats) -> None:
        sets = stats.backends.values()
        if stats.slots != sum(slots_of(one) for one in sets) + stats.departed:
            self.ledger.violation(f"the slots do not add up: {stats!r}")
        numbers = [stats.waiting, stats.departed, stats.claims - self._claims]
        for one in sets:
            numbers += [one.connecting, one.unclaimed, one.checking, one.claimed, one.closing]
        if min(numbers) < 0:
            self.ledger.violation(f"a count is negative, or claims are forgotten: {stats!r}")
        self._claims = stats.claims
        spares = sum(one.unclaimed for one in sets)
        assert self.pool is not None
        usable = sum(one.unclaimed for one in sets if one.ejected_until is None)
        if stats.waiting and usable and not self.pool.is_suspended:
            self.ledger.violation(f"{stats.waiting} claimants wait beside {usable} spares")
        if spares > sum(conn.is_idle for conn in self.ledger.live):
            self.ledger.violation(f"{spares} spares, but not so many idle connections")
        for one in sets:
            if one.online != (one.unclaimed + one.checking + one.claimed > 0):
                self.ledger.violation(f"online does not fit the counts: {one!r}")

    # --------------------------------------------------------------- when idle

    def when_idle(self, stats: PoolStats) -> None:
        """Statements 3 (the second half) and 7, and that nothing has been lost."""
        ledger = self.ledger
        sets = stats.backends.values()
        connected = sum(one.unclaimed + one.checking + one.claimed for one in sets)
        # Dials that are given up count as closing. And the probe of a failing backend is
        # checked before it counts as connected.
        others = sum(one.closing + one.connecting for one in sets) + stats.departed
        if not connected <= len(ledger.live) <= connected + others:
            ledger.violation(f"{len(ledger.live)} live connections, but {stats!r}")
        for conn in ledger.idle:
            ledger.check(not conn.departed, "a spare of a removed backend stays open", conn)
        held = sum(conn.in_body and not conn.closes for conn in ledger.live)
        if held > sum(one.claimed for one in sets) + stats.departed:
            ledger.violation(f"{held} connections are lent, but {stats!r}")
        self._check_covered(stats)

    def _check_covered(self, stats: PoolStats) -> None:
        sets = stats.backends.values()
        if not stats.waiting or len({one.backend.priority for one in sets}) > 1:
            return
        good = [one for one in sets if self.is_sound(one)]
        coming = sum(
            one.connecting + one.checking
            for one in sets
            if self._may_work(one.backend) or not (self._fails(one) or self._hangs(one.backend))
        )
        assert self.pool is not None
        if self.pool.is_suspended:
            coming += sum(one.unclaimed for one in sets)
        cap = min(self.policy.max_slots, self.pool.policy.max_slots)  # it may have been lowered
        room = stats.slots < cap and any(
            slots_of(one) + self._departed(one.backend) < self.policy.set_config.max_count
            and one.connecting < self.policy.set_config.max_connecting
            for one in good
        )
        if room and coming < stats.waiting:
            self.ledger.violation(
                f"{stats.waiting} wait, only {coming} connections are coming: {stats!r}"
            )

    def is_sound(self, one: BackendStats) -> bool:
        """Return True if a backend is not known to fail or to hang: it never failed, or a
        connection that was dialled after its last failure has lasted."""
        if one.failures or one.ejected_until is not None or not self._is_good(one.backend):
            return False
        error, when = self._errors[one.backend]
        return error is None or any(
            when < conn.opened < trio.current_time() - PROBATION
            for conn in self.ledger.live
            if conn.backend == one.backend
        )

    def _fails(self, one: BackendStats) -> bool:
        """Return True if a backend is known to fail: nothing has worked since the last error."""
        if not _fails(one):
            return False
        _, when = self._errors[one.backend]
        return not any(
            when < conn.opened < conn.asked_at and not conn.said_broken
            for conn in self.ledger.connections
            if conn.backend == one.backend
        )

    def _note_errors(self, stats: PoolStats) -> None:
        for one in stats.backends.values():
            known = self._errors.get(one.backend)
            if known is None or known[0] is not one.last_error:
                self._errors[one.backend] = (one.last_error, trio.current_time())

    def _departed(self, backend: Backend) -> int:
        # Connections from before a backend left count towards its cap when it is back.
        gone = sum(conn.departed for conn in self.ledger.live if conn.backend == backend)
        return gone + sum(dial.departed for dial in self.ledger.dialling if dial.backend == backend)

    def _is_good(self, backend: Backend) -> bool:
        return self._may_work(backend) and not any(
            isinstance(dial.error, Exception)
            or (dial.ended or trio.current_time()) - dial.started >= SLOW
            for dial in self.ledger.dials
            if dial.backend == backend
        )

    def _may_work(self, backend: Backend) -> bool:
        act = self.connector.script.standing("connect", backend.name)
        return act.error is None and act.delay < SLOW

    @property
    def patience(self) -> float:
        """Seconds of a dial after which the pool must have noticed that the backend hangs."""
        return max(SLOW, SLOW_FACTOR * self.ledger.longest_dial)

    def _hangs(self, backend: Backend) -> bool:
        began = [dial.started for dial in self.ledger.dialling if dial.backend == backend]
        return min(began, default=math.inf) + self.patience <= trio.current_time()

    # ------------------------------------------------------- what a client calls

    def arrive(self) -> int:
        """A client asks for a connection; its number in the order of arrival."""
        number = self.queue.arrive()
        self._clients[trio.lowlevel.current_task()] = number
        return number

    def leave(self, number: int) -> None:
        """A client has given up, or has been served."""
        self.queue.waiting.pop(number, None)

    def _lent(self) -> None:
        number = self._clients.pop(trio.lowlevel.current_task(), None)
        if number is None or number not in self.queue.waiting:
            return
        wrong = self.queue.serve(number, trio.current_time())
        if wrong is not None:
            self.ledger.violation(wrong)
