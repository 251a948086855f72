"""`Core`: what a pool is at one instant, and the synchronous steps that change it.

Trio runs one task at a time, so whatever is done here without an ``await`` is atomic. A
claim takes a spare, and a release hands the connection on, right here; no task of the
pool takes part. The tasks that do the rest are started by ``_pool.py``.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import random
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Generic, TypeVar, final

import trio

from .._balancing.idle_index import IdleIndex
from .._connections.dialer import Worker
from .._connections.hooks import Hooks
from .._events.emitter import Watch
from .._model.policy import Policy
from .._model.stats import PoolStats
from .._slots.slot_set import SlotSet
from .._slots.state import CHECKING, CLAIMED, Slot
from ..abc import Connector, Instrument
from .failure import ClaimFailure, termination_failure, timeout_failure
from .holders import describe_oldest
from .wait_queue import WaitQueue

logger = logging.getLogger("qorb_trio.pool")

#: So much is done in one go before all other tasks have their turn: so many backends made,
#: or slots opened or closed. A slot takes some 20 µs, the first step of its dial included.
SLICE = 50

A = TypeVar("A")
C = TypeVar("C")


@final
class Core(Generic[C]):
    """The state of a pool: its slot sets, its claimants, and the totals."""

    def __init__(
        self,
        connector: Connector[C],
        *,
        name: str,
        policy: Policy,
        instruments: Iterable[Instrument],
        rng: random.Random,
    ) -> None:
        self.name: str = name
        self.policy: Policy = policy
        self.rng: random.Random = rng
        self.hooks: Hooks[C] = Hooks(connector)
        #: All instruments, to be added to and taken from.
        self.instruments: Watch = Watch(self._watch_or_not)
        #: The same, where there are any.
        self.watch: Watch | None = None
        #: Whether a claim that finds a spare has nothing else to do.
        self.plain: bool = not self.hooks.sets_up
        for instrument in instruments:
            self.instruments.add(instrument)
        #: The resolver's current set, by name.
        self.sets: dict[str, SlotSet[C]] = {}
        #: Those of backends that have left, until their last slot is closed.
        self.departed: dict[SlotSet[C], None] = {}  # no set: its order would be by chance
        #: All slots, closing ones and those of departed backends included; those with an
        #: established connection; of these, those in CHECKING and those that are lent.
        #: `SlotSet.move` keeps them in step with its own.
        self.slots: int = 0
        self.connected: int = 0
        self.checking: int = 0
        self.claimed: int = 0
        self.shelf: IdleIndex[SlotSet[C]] = IdleIndex(rng)
        self.line: WaitQueue[Slot[C]] = WaitQueue()
        #: The tasks whose claims are outstanding.
        self.holding: set[trio.lowlevel.Task | None] = set()
        self._warned_of_second: bool = False
        #: The ids of all connections that are open, opening ones' excluded.
        self.held: set[int] = set()
        #: How long connects take: the longest, forgotten by and by.
        self.connect_time: float = 0.0
        #: So many claims, held and waiting, are provided for by the last plan.
        self.covered: float = 0
        #: So many connections would be enough, by the last plan.
        self.enough: int = 0
        #: What each `wait_ready` waits for.
        self.ready_wanted: list[int] = []
        #: Set when the resolver has sent another set, and at each rebalance interval.
        self.rebalance_due: bool = False
        #: Whether a spare would have given way to another backend, by the last plan, if there
        #: had been one: the next that comes back does, of those that `SlotSet.gives_way`.
        self.lacks_spare: bool = False
        self.closing: bool = False
        self.ended_at: float | None = None
        self._plan_requested: bool = False
        #: Between two sets of backends: a plan after each slice would cost more than it gains.
        self.exchanging: bool = False
        self._wake_planner: trio.MemorySendChannel[None]
        self.planner_wakes: trio.MemoryReceiveChannel[None]
        self._wake_planner, self.planner_wakes = trio.open_memory_channel[None](1)
        #: Parked here: whoever waits for slots to connect or, in the end, to close.
        self.changes: trio.lowlevel.ParkingLot = trio.lowlevel.ParkingLot()
        #: Parked here: health checks that would take too many spares at once.
        self.check_lot: trio.lowlevel.ParkingLot = trio.lowlevel.ParkingLot()
        self.worker: Worker[C] = Worker(self)
        self.next_id: Callable[[], int] = itertools.count(1).__next__
        self.next_rank: Callable[[], int] = itertools.count(1).__next__
        self._retired_claims: int = 0
        # Set when the pool starts.
        #: The resolver's `snapshot`.
        self.resolution: Callable[[], object] = lambda: None
        #: The run's clock, found once: Trio's own way to it takes three calls.
        self.now: Callable[[], float] = trio.current_time
        self.nursery: trio.Nursery | None = None
        self.token: trio.lowlevel.TrioToken

    def fire(self, event: str, *args: Any) -> None:
        """Tell the instruments. Callers on the claim path ask for `watch` themselves."""
        if self.watch is not None:
            self.watch.fire(event, self.name, *args)

    def _watch_or_not(self) -> None:
        self.watch = self.instruments if self.instruments.instruments else None
        self.plain = self.watch is None and not self.hooks.sets_up

    # Claims.

    def take(self, claim_id: int = 0) -> Slot[C] | None:
        """Take a usable spare for a claim, if there is one.

        The number of the claim is only for instruments to see.
        """
        shelf = self.shelf
        while best := shelf.best:
            # With one backend there is nothing to choose, and a call is 1 % of a claim.
            home = best[0] if len(best) == 1 else shelf.choose()
            slot = home.claim_spare()
            if self.hooks.tells_broken and home.found_broken(slot):
                continue
            # As `_lend`, whose call would cost as much as all that it does.
            slot.holder = task = trio.lowlevel.current_task()
            slot.since = self.now()
            if task in self.holding:
                self._warn_of_second()
            self.holding.add(task)
            if self.claimed > self.covered:
                self.request_plan()
            if self.watch is not None:
                self.fire("handle_claimed", claim_id, slot.id, home.backend)
            return slot
        return None

    def wait(
        self, claim_id: int, deadline: float, *, again: bool = False
    ) -> Coroutine[Any, Any, Slot[C] | ClaimFailure]:
        """Park a claimant until it is handed a slot, or refused."""
        task = trio.lowlevel.current_task()
        line = self.line
        if task in self.holding:
            self._warn_of_second()
        if self.claimed + line.waiting >= self.covered:
            self.request_plan()
        return line.wait(task, claim_id, deadline, again=again)

    def take_back(self, slot: Slot[C], exc: BaseException | None, keep: bool) -> None:
        """A claim has ended, by `exc` if any; `keep` if it may be lent again."""
        if slot.state is not CLAIMED:
            return  # the pool has ended, and has closed it under the claimant
        home = slot.home
        self.holding.discard(slot.holder)
        slot.holder = None
        if self.watch is not None:
            self.watch.fire("handle_returned", self.name, slot.id)
        hooks = self.hooks
        if keep:
            keep = home.should_recycle(slot, exc) if hooks.judges else exc is None
        if not (keep and home.active):
            # What a cancelled claimant leaves behind, say an unread reply, is no fault of
            # the backend's, so this is not asked whether it is broken.
            home.close(slot)
        elif not (hooks.tends and self._tends(slot)):
            if home.record.streak:
                home.proved(slot)
            if self.lacks_spare and self._gives_way(slot):
                pass  # it is being closed
            elif self.line.waiting:
                self._hand_over(slot)
            else:
                home.shelve(slot)

    def _tends(self, slot: Slot[C]) -> bool:
        """Look at what has come back; whether it is being closed, or cleaned, for that."""
        home = slot.home
        if self.hooks.tells_broken and home.found_broken(slot):
            return True
        if self.hooks.recycles:
            home.recycle(slot)
            return True
        slot.since = self.now()
        return False

    def offer(self, slot: Slot[C]) -> None:
        """A connection is free: give it to the claimant who has waited longest."""
        if slot.state is CHECKING and self._gives_way(slot):
            return
        if not self.line.waiting:
            slot.home.shelve(slot)
            return
        slot.home.move(slot, CLAIMED)
        self._hand_over(slot)

    def _gives_way(self, slot: Slot[C]) -> bool:
        """Close what comes back, though somebody waits, if another backend needs the place."""
        home = slot.home
        if not (self.lacks_spare and home.gives_way and self.connected > 1):
            return False
        self.lacks_spare = False  # one is enough
        home.close(slot)
        return True

    def _hand_over(self, slot: Slot[C]) -> None:
        """Lend a connection that is CLAIMED, though by nobody, to the first in line."""
        claim_id, task = self.line.hand_off(slot)
        self._lend(slot, task)
        if self.watch is not None:
            self.fire("handle_claimed", claim_id, slot.id, slot.home.backend)

    def _lend(self, slot: Slot[C], task: trio.lowlevel.Task) -> None:
        """Note who holds a connection, and since when."""
        slot.holder = task
        slot.since = self.now()
        if task in self.holding:
            self._warn_of_second()
        self.holding.add(task)

    def _warn_of_second(self) -> None:
        """Whoever claims one by one can wait for itself, or for another who does so too."""
        if self._warned_of_second:
            return
        self._warned_of_second = True
        logger.warning(
            "pool %s: task %s claims while it holds a claim of this pool; when all"
            " connections are in use, such tasks wait for one another",
            self.name,
            trio.lowlevel.current_task().name,
        )

    def abandoned(self, slot: Slot[C]) -> None:
        """A claim was garbage collected; perhaps in another thread, or half-way
        through something in this one, so that nothing may be done right now."""
        backend = slot.home.backend.name
        with contextlib.suppress(trio.RunFinishedError):
            self.token.run_sync_soon(self._reclaim, slot)
        warnings.warn(
            f"a claim of pool {self.name!r} on backend {backend!r} was not released",
            ResourceWarning,
            stacklevel=2,
        )

    def _reclaim(self, slot: Slot[C]) -> None:
        self.take_back(slot, None, False)

    def timed_out(self) -> ClaimFailure:
        """Why there is no connection."""
        return timeout_failure(
            self.stats(),
            self.policy.max_slots,
            self._latest_error(),
            describe_oldest(self),
            "" if self.sets else self._trouble(),
        )

    def _latest_error(self) -> Exception | None:
        """What the latest connect met, or else the latest failure of any other kind.

        While backends are down, connections to them fail to close too, and what that says
        is not why there are none.
        """
        records = [it.record for it in self.sets.values()]
        met = [(it.connect_error_at, it.connect_error) for it in records if it.connect_error]
        met = met or [(it.last_error_at, it.last_error) for it in records if it.last_error]
        return max(met, key=lambda it: it[0], default=(0.0, None))[1]

    def _trouble(self) -> str:
        """Why there is no backend, where the resolver says it."""
        trouble = None
        with contextlib.suppress(Exception):  # the user's code, and but a hint
            trouble = getattr(self.resolution(), "trouble", None)
        return trouble if isinstance(trouble, str) else ""

    def terminated(self) -> ClaimFailure:
        """The pool is ending."""
        return termination_failure(self.stats())

    def stats(self) -> PoolStats:
        """A snapshot."""
        # Before the pool has started there is nothing to date; after it has ended, Trio
        # may have ended too.
        now = self.ended_at
        if now is None:
            now = trio.current_time() if self.sets else 0.0
        slots = self.slots
        return PoolStats(
            name=self.name,
            claims=self._retired_claims
            + sum(it.total_claims for it in (*self.sets.values(), *self.departed)),
            waiting=self.line.waiting,
            slots=slots,
            departed=slots - sum(len(it.slots) for it in self.sets.values()),
            backends={name: it.stats(now) for name, it in self.sets.items()},
        )

    # Slots.

    @property
    def usable(self) -> int:
        """How many slots are connected to backends that have not left."""
        return self.connected - sum(home.connected for home in self.departed)

    def request_plan(self) -> None:
        """Have the planner run when all tasks that are runnable now have had their turn.

        So however many things change in one go, there is one plan.
        """
        if not (self._plan_requested or self.exchanging or self.closing):
            self._plan_requested = True
            self._wake_planner.send_nowait(None)

    def plan_begins(self) -> None:
        """What is requested from now on needs another plan."""
        self._plan_requested = False
        with contextlib.suppress(trio.WouldBlock):
            # There is one left if the time had come as the request came.
            self.planner_wakes.receive_nowait()

    def hold(self, connection: C) -> None:
        """Register what ``connect`` returned; raise if that cannot be a connection."""
        if connection is None:
            raise TypeError("connect() returned None instead of a connection")
        if id(connection) in self.held:
            raise RuntimeError(
                f"connect() returned an object that the pool already holds: {connection!r}"
            )
        self.held.add(id(connection))

    def slot_connected(self, home: SlotSet[C], *, news: bool) -> None:
        """A slot has connected; `news`: that changes what is known of its backend."""
        if self.ready_wanted and self.connected >= min(self.ready_wanted):
            self.changes.unpark_all()
        # A rebalance goes on when others may be closed for what has connected, and is over
        # when nothing is on its way any more.
        if news or (self.rebalance_due and (self.connected >= self.enough or not home.dials)):
            self.request_plan()

    def slot_closed(self, home: SlotSet[C]) -> None:
        """A slot has nothing open any more."""
        if not home.slots and home in self.departed:
            del self.departed[home]
            self._retired_claims += home.total_claims
        if not self.closing:
            self.request_plan()
        elif not (self.slots and self.claimed):
            self.changes.unpark_all()

    def may_check(self) -> bool:
        """Whether another spare may be taken for a health check.

        At most half of those that are not in use, so that claims find the others; but
        a single one too must be checked some day.
        """
        return self.checking == 0 or self.checking < self.unclaimed

    @property
    def unclaimed(self) -> int:
        """How many spares there are."""
        return self.connected - self.claimed - self.checking

    def start(self, work: Callable[[A], Awaitable[None]], what: A) -> None:
        """Start a task of the pool."""
        assert self.nursery is not None
        self.nursery.start_soon(work, what)

    def checks_ended(self, home: SlotSet[C]) -> None:
        """A check or a recycling is over."""
        self.check_lot.unpark()  # one ended, so there is room for one
        surplus = self.rebalance_due and self.connected > self.enough
        if surplus or home.gives_way:  # perhaps this spare may go
            self.request_plan()

    def start_closing(self, slot: Slot[C]) -> None:
        """Close a connection in a task of its own."""
        self.start(self._disconnect, slot)

    @trio.lowlevel.enable_ki_protection
    async def _disconnect(self, slot: Slot[C]) -> None:
        assert slot.connection is not None
        limit = trio.current_time() + self.policy.set_config.disconnect_timeout
        home = slot.home
        try:
            with trio.CancelScope(shield=True, deadline=limit) as scope:
                await self.hooks.disconnect(slot.connection)
            if scope.cancelled_caught:
                home.noted(slot, trio.TooSlowError("disconnect took longer than its timeout"))
        except Exception as exc:  # noqa: BLE001 - the user's code
            home.noted(slot, exc)
        finally:
            home.closed(slot)

    # The end.

    def begin_closing(self) -> None:
        """No more claims, no more dials: close all that nobody holds."""
        if self.closing:
            return
        self.closing = True
        self.line.fail_all(self.terminated())
        for home in (*self.sets.values(), *self.departed):
            home.deactivate()
            home.clear()
        self.changes.unpark_all()

    def close_claims(self) -> None:
        """Close the connections that are still lent out."""
        for home in (*self.sets.values(), *self.departed):
            home.close_claims()
