"""`NineStatements`: the contract's nine statements, all compared with the ledger.

The checks of the harness are included; this adds those that only a simulation can violate.

====  =====================================================  ==================================
 no.  at every task step                                     whenever time is about to pass
====  =====================================================  ==================================
  1   ledger and pool within ``max_slots``, ``max_count``
  2   each connection in one state, backend by backend, as   no more connections, and no fewer,
      the ledger sees it; one holder (at each loan)          than the pool says that it has
  3   none waits beside a spare; calm: no spare is closed    every claimant is covered, and none
                                                             waits beside an idle connection
  4   order of grants, by arrival and by the pool's events;  the pool's claimants are exactly
      number of claims granted                               the ledger's
  5   at each loan: clean, recycled, asked ``is_broken``,
      not of a removed backend
  6                                                          dead and hung ones hold half of the
                                                             cap at most; each has its turn
  7   no dial to a removed backend; a returning one is new   no idle connection to one
  8   at each loan: the least loaded of those alike; at      once all is well again: by weight
      each dial: no worse priority than one that is online   within the best priority
  9   all of the above, while claimants are cancelled        the same
 10   calm: an idle connection that its peer closes is no
      failure
====  =====================================================  ==================================

Statement 3's cover and statement 6 are promises about plans. A task of the pool makes the
plans, so both can be false between the steps of that task, but they hold before time passes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import attrs
import trio

from qorb_trio import Backend, BackendStats, Policy, PoolStats

from ..harness import InvariantInstrument, LedgerConnection, PlainLedgerConnector
from ..harness.invariants import PROBATION
from ..harness.ledger import Dial

#: With each failure of a backend, the time after which its dial is suspect doubles, at most this
#: number of times.
MOST_DOUBLINGS = 6


@attrs.define
class Record:
    """The ledger's view of the dials to one backend since it joined the set."""

    dead: bool = False
    """The last dial failed, and nothing was connected."""
    streak: int = 0
    """Consecutive dials that failed, up to now."""
    probed_at: float = 0
    """When it was last dialled, or could not have been."""


class NineStatements(InvariantInstrument):
    """The checks of the harness, and the rest. What is wrong once ends the simulation."""

    max_steps = 60_000

    def __init__(self, connector: PlainLedgerConnector, policy: Policy) -> None:
        super().__init__(connector, policy)
        self.records: dict[Backend, Record] = {}
        self.ending = False
        """True as soon as a task has begun to end the pool."""
        self.is_calm = False
        """True if nothing goes wrong but claims, and idle connections that peers close."""
        self._judged = 0
        #: By backend, its priority, and whether it is ejected.
        self._ranks: dict[Backend, tuple[int, bool]] = {}
        #: By connection, how often it was lent; and the limit of that, unless it has changed.
        self._uses: Counter[LedgerConnection] = Counter()
        self._max_uses = policy.set_config.max_uses
        self._changed_at = -math.inf
        self._told_at = 0.0
        #: By backend, its dials under way or to come, and when there were last more of them.
        self._decided: dict[Backend, tuple[int, float]] = {}
        #: By backend that is online, since when: a new connection may be checked before it is.
        self._online_since: dict[Backend, float] = {}
        self._asking: dict[trio.lowlevel.Task, int] = {}
        #: The dials of each backend, while there are more than a lowered limit allows.
        self._dials: Counter[Backend] = Counter()

    # ------------------------------------------------------------------- the ledger's

    def heard(self, what: str, whom: LedgerConnection | Dial) -> None:
        """The ledger has a note: of a client served, or of a dial's end."""
        if what == "lent":
            self._asking.pop(trio.lowlevel.current_task(), None)
        if what == self._handed_out:
            assert isinstance(whom, LedgerConnection)
            self._check_age(whom)
        if what != "connect ends":
            return
        assert isinstance(whom, Dial)
        record = self.records.get(whom.backend)
        if whom.departed or record is None:
            return
        assert whom.ended is not None
        record.probed_at = whom.ended
        lasted = whom.ended - whom.started
        if whom.error is None:
            record.dead = False
            record.streak = 0
            return
        record.streak += 1
        timed_out = lasted >= self.policy.set_config.connect_timeout
        if timed_out or isinstance(whom.error, Exception):
            record.dead = not any(conn.backend == whom.backend for conn in self.ledger.live)

    @property
    def _handed_out(self) -> str:
        return "on_acquire begins" if self.ledger.dirty_hooks else "lent"

    def reconfigured(self, policy: Policy, stats: PoolStats) -> None:
        """Go by another policy from now on."""
        super().reconfigured(policy, stats)
        self._changed_at = trio.current_time()
        self._dials = Counter(dial.backend for dial in self.ledger.dialling)
        if policy.set_config.max_uses != self._max_uses:
            self._max_uses = math.inf

    def _check_age(self, conn: LedgerConnection) -> None:
        """Statement 5: a connection that is claimed has not expired."""
        now = trio.current_time()
        age = now - conn.born
        # It may have been handed out just before the policy has changed.
        if age >= self.policy.set_config.max_lifetime and now > self._changed_at:
            self.ledger.violation(f"[5] lent at age {age:.6g}: {conn!r}")
        self._uses[conn] += 1
        if self._uses[conn] > self._max_uses:
            self.ledger.violation(f"[5] lent for the {self._uses[conn]}th time: {conn!r}")

    def arrive(self) -> int:
        """A client asks."""
        number = super().arrive()
        self._asking[trio.lowlevel.current_task()] = number
        return number

    def leave(self, number: int) -> None:
        """A client does not ask any more."""
        super().leave(number)
        self._asking.pop(trio.lowlevel.current_task(), None)

    # ------------------------------------------------------------------- every step

    def every_step(self, stats: PoolStats) -> None:
        """All that must hold between any two steps."""
        super().every_step(stats)
        if self.ledger.violations:
            self.stop()
        self._check_newcomers(stats)
        self._check_states(stats)
        self._check_priorities(stats)
        self._check_limits(stats)
        if stats.claims != self.ledger.granted:
            self.ledger.violation(
                f"[4] {stats.claims} claims are said to be granted, not {self.ledger.granted}"
            )

    def _check_newcomers(self, stats: PoolStats) -> None:
        if len(self.records) == len(self._known) and self.records.keys() == self._known.keys():
            return
        for one in stats.backends.values():
            if one.backend in self.records:
                continue
            if one.failures or one.last_error or one.total_claims or one.online:
                self.ledger.violation(f"[7] it has just come, but is not fresh: {one!r}")
        now = trio.current_time()
        self.records = {
            backend: self.records.get(backend) or Record(probed_at=now) for backend in self._known
        }

    def _check_states(self, stats: PoolStats) -> None:
        """Statement 2: each connection is, for the pool, in the state that it is in."""
        ledger = self.ledger
        if trio.current_time() >= ledger.hold_until:
            return  # claims may be cut off
        here: Counter[tuple[Backend, str]] = Counter()
        gone = 0
        for conn in ledger.live:
            if conn.departed:
                gone += 1
            else:
                here[conn.backend, _state(conn)] += 1
                here[conn.backend, "probed"] += conn.hook == "is_valid" and len(conn.history) == 1
        for dial in ledger.dialling:
            if dial.departed:
                gone += 1
            else:
                here[dial.backend, "dialled"] += 1
        if gone > stats.departed:
            ledger.violation(f"[2] {gone} connections of removed backends, but {stats!r}")
        for one in stats.backends.values():
            backend = one.backend
            lent, tended = here[backend, "lent"], here[backend, "tended"]
            idle, closing = here[backend, "idle"], here[backend, "closing"]
            # The probe of a failing backend is checked before it counts as connected.
            probed = max(0, min(here[backend, "probed"], tended - one.checking))
            tended -= probed
            if (
                here[backend, "dialled"] + probed > one.connecting + one.closing
                or lent > one.claimed
                or tended > one.checking
                or closing > one.closing
                or one.unclaimed > idle
                or one.unclaimed + one.checking + one.claimed > idle + tended + lent
            ):
                ledger.violation(f"[2] {dict(here)}, but {one!r}")

    def _check_limits(self, stats: PoolStats) -> None:
        """Invariant 10, and the limit of concurrent dials to one backend."""
        if self.is_calm and any(one.failures for one in stats.backends.values()):
            self.ledger.violation(f"[10] nothing has failed, but {stats!r}")
            self.is_calm = False
        most = self.policy.set_config.max_connecting
        dials = Counter(dial.backend for dial in self.ledger.dialling if not dial.departed)
        for backend, count in dials.items():
            if count > max(most, self._dials.get(backend, 0)):
                self.ledger.violation(f"[3] {count} dials to {backend.name} at once, of {most}")
        self._dials = dials if any(count > most for count in dials.values()) else Counter()

    def _check_priorities(self, stats: PoolStats) -> None:
        """Statement 8: no new dial beyond the best priority that has anybody online."""
        now, dials = trio.current_time(), self.ledger.dials
        ranks = {
            one.backend: (one.backend.priority, one.ejected_until is not None)
            for one in stats.backends.values()
        }
        if ranks != self._ranks:
            self._ranks, self._told_at = ranks, now
        for one in stats.backends.values():
            before, when = self._decided.get(one.backend, (0, now))
            when = now if one.connecting > before else when
            self._decided[one.backend] = one.connecting, when
        self._online_since = {
            one.backend: self._online_since.get(one.backend, now)
            for one in stats.backends.values()
            if one.online
        }
        if self._judged == len(dials):
            return
        # A dial was decided upon before, and has waited for its back-off; if others to the
        # same backend have failed meanwhile, for more than one.
        early = now - self.policy.set_config.max_connection_backoff - self.policy.set_config.spread
        judged = dials[self._judged :]
        early = min([early, *(self._decided.get(it.backend, (0, now))[1] for it in judged)])
        # The pool closes a connection that cannot be cleaned before the ledger notices.
        sets = stats.backends.values()
        online = {
            one.backend
            for one in sets
            if one.online and not one.closing and one.ejected_until is None
        }
        best = min(
            (
                ranks[conn.backend][0]
                for conn in self.ledger.live
                if not (conn.closes or conn.broken or conn.departed)
                and conn.backend in online
                and max(conn.opened, self._told_at, self._online_since[conn.backend]) < early
            ),
            default=math.inf,
        )
        for dial in judged:
            if ranks.get(dial.backend, (0,))[0] > best:
                self.ledger.violation(f"[8] {dial!r}, while priority {best} is online")
        self._judged = len(dials)

    # -------------------------------------------------------------------- when idle

    def when_idle(self, stats: PoolStats) -> None:
        """All that must hold before time passes."""
        super().when_idle(stats)
        if self.ending:
            return  # nobody waits for a pool that ends, and it probes nobody
        self._check_parked(stats)
        self._check_failing(stats)

    def _check_parked(self, stats: PoolStats) -> None:
        """Statements 3 and 4: those that asked wait, and none of them beside a spare."""
        being_set_up = sum(conn.hook == "on_acquire" for conn in self.ledger.live)
        waiting = len(self._asking) - being_set_up
        if stats.waiting != waiting:
            self.ledger.violation(f"[4] {stats.waiting} are said to wait, but {waiting} do")
        if not stats.waiting or (self.pool is not None and self.pool.is_suspended):
            return
        for conn in self.ledger.idle:
            if conn.departed or conn.broken or conn.dirty or self._ranks[conn.backend][1]:
                continue
            self.ledger.violation(f"[3] {stats.waiting} wait beside {conn!r}")

    def _check_failing(self, stats: PoolStats) -> None:
        """Statement 6: how much the failing ones take, and that each has its turn."""
        now, bad = trio.current_time(), []
        for one in stats.backends.values():
            if self._is_bad(one, now):
                bad.append(one)
            else:
                self.records[one.backend].probed_at = now
        if not bad:
            return
        good = [one for one in stats.backends.values() if one.online and one not in bad]
        limit = max(1, self.policy.max_slots // 2)
        taken = sum(one.connecting for one in bad)
        if good and taken > limit:
            self.ledger.violation(
                f"[6] {taken} slots for {[one.backend.name for one in bad]}, of {limit}: {stats!r}"
            )
        self._check_turns(stats, bad)

    def _is_bad(self, one: BackendStats, now: float) -> bool:
        record = self.records[one.backend]
        if one.online:
            return False
        patience = self.patience * 2.0 ** min(record.streak, MOST_DOUBLINGS)
        oldest = min(self._begun(one.backend), default=math.inf)
        return record.dead or now - oldest > patience

    def _begun(self, backend: Backend) -> Iterable[float]:
        for dial in self.ledger.dialling:
            if dial.backend == backend and not dial.departed:
                yield dial.started

    def _check_turns(self, stats: PoolStats, bad: list[BackendStats]) -> None:
        config, now = self.policy.set_config, trio.current_time()
        sets = stats.backends.values()
        best = min((one.backend.priority for one in sets if one.online), default=math.inf)
        lending = [one for one in sets if one.ejected_until is None]
        spares = sum(one.unclaimed for one in lending)
        connected = sum(one.unclaimed + one.checking + one.claimed for one in lending)
        closing = sum(one.closing for one in sets) + stats.departed
        free = self.policy.max_slots - stats.slots
        room = free > 0 or (spares > 0 and connected > 1)
        turn = config.connect_timeout + config.max_connection_backoff + config.spread + PROBATION
        for one in bad:
            record = self.records[one.backend]
            if (
                not room
                or closing
                or not self.policy.spares_wanted
                or one.backend.priority > best
                or one.ejected_until is not None
                or any(True for _ in self._begun(one.backend))
            ):
                record.probed_at = now
            elif now - record.probed_at > turn * len(sets) + 1:
                self.ledger.violation(
                    f"[6] {one.backend.name} was not probed since {record.probed_at}: {stats!r}"
                )
                record.probed_at = now


def _state(conn: LedgerConnection) -> str:
    if conn.closes:
        return "closing"
    if conn.in_body or conn.hook == "on_acquire":
        return "lent"
    return "tended" if conn.hook else "idle"
