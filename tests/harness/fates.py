"""A connector with a ledger whose backends each have a fate, and a pool to go with it.

For tests in which hours pass and whole services die and recover. `open_bench` looks at every
step of every task; `a_pool` looks at the ledger at the end, and so can afford hundreds of backends.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Literal, TypeAlias, final

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from qorb_trio import Backend, Policy, Pool, PoolStats, SetConfig, open_pool
from qorb_trio.abc import Connector, Instrument
from qorb_trio.testing import ManualResolver

from .ledger import Dial, Hook, LedgerConnection, PlainLedgerConnector

#: The outcome of a hook after its delay.
Act: TypeAlias = Literal["ok", "fail", "hang"]

#: No sane pool makes this many dials within one test, so the test fails instead of spinning.
RUNAWAY = 50_000


@attrs.define
class Fate:
    """The outcome of all calls that concern one backend; it may be changed at any time."""

    connect: Act = "ok"
    #: Seconds, or a range of them to draw from.
    connect_delay: float | tuple[float, float] = 0.0
    #: Seconds that a cancelled dial takes to end, shielded.
    connect_linger: float = 0.0
    #: True if a cancelled dial still returns a connection.
    connect_stubborn: bool = False
    #: True if the server accepts a connection and closes it at once.
    born_broken: bool = False
    check: Act = "ok"
    check_delay: float = 0.0
    recycle: Act = "ok"
    recycle_delay: float = 0.0
    close: Act = "ok"
    close_delay: float = 0.0


@final
class FatedAct:
    """One call of a hook, which ends as the fate of its backend says by then."""

    def __init__(self, fate: Fate, hook: Hook, backend: str, rng: random.Random) -> None:
        self._fate = fate
        self._hook = hook
        self._backend = backend
        self._rng = rng

    async def perform(self) -> bool:
        """Do it; the result matters to ``is_valid`` alone."""
        fate = self._fate
        if self._hook == "connect":
            await self._connect()
        elif self._hook == "is_valid":
            await trio.sleep(fate.check_delay)
            await _end(fate.check if fate.check == "hang" else "ok", "")
        elif self._hook == "on_recycle":
            await trio.sleep(fate.recycle_delay)
            await _end(fate.recycle, "cannot be cleaned")
        else:
            await trio.sleep(fate.close_delay)
            await _end(fate.close, "cannot be closed")
        return fate.check == "ok"

    async def _connect(self) -> None:
        fate, delay = self._fate, self._fate.connect_delay
        try:
            await trio.sleep(delay if isinstance(delay, int | float) else self._rng.uniform(*delay))
            await _end(fate.connect, f"{self._backend} refuses")
        except trio.Cancelled:
            if fate.connect_linger:
                with trio.CancelScope(shield=True):
                    await trio.sleep(fate.connect_linger)
            if not fate.connect_stubborn:
                raise


async def _end(act: Act, text: str) -> None:
    if act == "hang":
        await trio.sleep_forever()
    if act == "fail":
        raise ConnectionRefusedError(text)


@final
class Fates:
    """The fates of all backends, in the place of a `Script`."""

    def __init__(self, default: Fate, seed: int) -> None:
        self._default = default
        self._fates: dict[str, Fate] = {}
        self._rng = random.Random(seed)

    def of(self, backend: str) -> Fate:
        """The fate of one backend, to be read or changed."""
        return self._fates.setdefault(backend, attrs.evolve(self._default))

    def change(self, backend: str, fate: Fate) -> None:
        """Give a backend another fate."""
        self._fates[backend] = fate

    def take(self, hook: Hook, backend: str) -> FatedAct:
        """Return the act for the call that is being made."""
        return FatedAct(self.of(backend), hook, backend, self._rng)


class FatedConnector(PlainLedgerConnector):
    """A connector whose hooks do as the fates of the backends say."""

    should_recycle = Connector.should_recycle

    def __init__(self, *, seed: int = 0, **default: object) -> None:
        fates = Fates(Fate(**default), seed)  # type: ignore[arg-type]  # checked by attrs
        super().__init__(script=fates)
        self._fates = fates
        self._load: Counter[Backend] = Counter()
        self.peak = 0
        self.peak_checking = 0
        self.max_slots: float = math.inf
        self.max_count: float = math.inf

    # The script.

    def fate(self, backend: Backend | str) -> Fate:
        """The fate of one backend, to be read or changed."""
        return self._fates.of(backend if isinstance(backend, str) else backend.name)

    def change(self, backend: Backend, fate: Fate) -> None:
        """Give a backend another fate."""
        self._fates.change(backend.name, fate)

    def crash(self, *backends: Backend) -> None:
        """Let backends die: their open connections break, and dials and checks fail."""
        for backend in backends:
            fate = self.fate(backend)
            fate.connect = fate.check = "fail"
            for conn in self.open_to(backend):
                conn.broken = True

    def recover(self, *backends: Backend) -> None:
        """Let backends live again; broken connections stay broken."""
        for backend in backends:
            fate = self.fate(backend)
            fate.connect = fate.check = "ok"

    # The ledger, as these tests look at it.

    @property
    def conns(self) -> list[LedgerConnection]:
        """All connections, in the order in which they were opened."""
        return self.ledger.connections

    @property
    def dials(self) -> list[Dial]:
        """All dials, in the order in which they began."""
        return self.ledger.dials

    @property
    def open(self) -> list[LedgerConnection]:
        """The connections that nobody has begun to close."""
        return [conn for conn in self.ledger.live if not conn.closes]

    @property
    def closed(self) -> list[LedgerConnection]:
        """The connections that somebody has begun to close."""
        return [conn for conn in self.conns if conn.closes]

    @property
    def checking(self) -> list[LedgerConnection]:
        """The connections whose health check is under way."""
        return [conn for conn in self.ledger.live if conn.hook == "is_valid"]

    @property
    def load(self) -> int:
        """The number of connections that are opening, open or closing."""
        return len(self.ledger.live) + len(self.ledger.dialling)

    def open_to(self, backend: Backend) -> list[LedgerConnection]:
        """The open connections to one backend."""
        return [conn for conn in self.open if conn.backend == backend]

    def dials_to(self, *backends: Backend) -> list[Dial]:
        """The dials to these backends, in order."""
        return [dial for dial in self.dials if dial.backend in backends]

    def dialling(self, *backends: Backend) -> int:
        """Return the number of dials to these backends that are under way."""
        return sum(dial.backend in backends for dial in self.ledger.dialling)

    def assert_clean(self) -> None:
        """Check that nothing is open or opening, and that nothing forbidden happened."""
        wrong = [*self.ledger.violations, *self.ledger.at_the_end()]
        assert not wrong, "\n".join(wrong)

    # The hooks, which the pool calls.

    async def connect(self, backend: Backend) -> LedgerConnection:
        """Connect as the backend's fate says."""
        if len(self.dials) >= RUNAWAY:
            self.ledger.violation("the pool dials without end")
            await trio.sleep_forever()
        self._load[backend] += 1
        self._check_caps(backend)
        try:
            conn = await super().connect(backend)
        except BaseException:
            self._load[backend] -= 1
            raise
        conn.broken = self.fate(backend).born_broken
        return conn

    def _check_caps(self, backend: Backend) -> None:
        load = self._load.total()
        self.peak = max(self.peak, load)
        if load > self.max_slots:
            self.ledger.violation(f"{load} connections, of {self.max_slots} at most")
        if self._load[backend] > self.max_count:
            here = f"{self._load[backend]} connections to {backend.name}"
            self.ledger.violation(f"{here}, of {self.max_count} at most")

    async def is_valid(self, conn: LedgerConnection) -> bool:
        """Check as the backend's fate says."""
        self.peak_checking = max(self.peak_checking, len(self.checking) + 1)
        return await self._tend(conn, "is_valid") and not conn.broken

    async def on_recycle(self, conn: LedgerConnection) -> None:
        """Clean up as the backend's fate says."""
        await self._tend(conn, "on_recycle")

    async def disconnect(self, conn: LedgerConnection) -> None:
        """Close as the backend's fate says; however that ends, it is closed then."""
        try:
            await super().disconnect(conn)
        finally:
            self._load[conn.backend] -= 1


class Recorder(Instrument):
    """Notes when the pool plans, and which backends come and go online."""

    def __init__(self) -> None:
        self.plans: list[float] = []
        self.online: list[tuple[float, str]] = []
        self.offline: list[tuple[float, str]] = []

    def rebalance_start(self, pool: str) -> None:
        """Note the time."""
        self.plans.append(trio.current_time())

    def slot_set_online(self, pool: str, backend: Backend) -> None:
        """Note the time and the backend."""
        self.online.append((trio.current_time(), backend.name))

    def slot_set_offline(self, pool: str, backend: Backend) -> None:
        """Note the time and the backend."""
        self.offline.append((trio.current_time(), backend.name))


@attrs.frozen
class Rig:
    """An open pool, with what drives it."""

    pool: Pool[LedgerConnection]
    resolver: ManualResolver
    connector: FatedConnector

    def stats(self) -> PoolStats:
        """A snapshot of the pool."""
        return self.pool.stats()


@asynccontextmanager
async def a_pool(
    connector: FatedConnector,
    backends: Iterable[Backend] | None,
    policy: Policy | None = None,
    *,
    instruments: Sequence[Instrument] = (),
    seed: int = 0,
) -> AsyncIterator[Rig]:
    """Open a pool for the length of the block, and audit the ledger afterwards."""
    policy = Policy() if policy is None else policy
    connector.max_slots = policy.max_slots
    connector.max_count = policy.set_config.max_count
    resolver = ManualResolver(backends)
    async with trio.open_nursery() as nursery:
        async with open_pool(
            nursery,
            resolver,
            connector,
            policy=policy,
            instruments=instruments,
            rng=random.Random(seed),
        ) as pool:
            yield Rig(pool, resolver, connector)
        assert not nursery.child_tasks, "the pool left tasks behind"
    connector.assert_clean()


# ------------------------------------------------------------------------- helpers


def make_backends(count: int, prefix: str = "b", *, priority: int = 0) -> list[Backend]:
    """Make `count` backends, ``b0``, ``b1``, ... at different addresses."""
    return [
        Backend(
            (f"{prefix}{number}.test", 1000 + number), name=f"{prefix}{number}", priority=priority
        )
        for number in range(count)
    ]


async def settle() -> None:
    """Let everything happen that needs no time to pass."""
    await wait_all_tasks_blocked()


async def pass_time(seconds: float) -> None:
    """Let time pass, and then everything happen that is due."""
    await trio.sleep(seconds)
    await wait_all_tasks_blocked()


async def pass_time_to(when: float) -> None:
    """Let time pass until `when`, and then everything happen that is due."""
    await trio.sleep_until(when)
    await wait_all_tasks_blocked()


async def watch(seconds: float, step: float, look: Callable[[], None]) -> None:
    """Call `look` for `seconds`, after each `step`, when all tasks are blocked."""
    for _ in range(round(seconds / step)):
        await pass_time(step)
        look()


@attrs.define
class Served:
    """The results of a load of claimants."""

    by_backend: Counter[str] = attrs.field(factory=Counter)
    longest_wait: float = 0.0

    @property
    def total(self) -> int:
        """The number of claims that were granted."""
        return self.by_backend.total()


async def run_load(
    pool: Pool[LedgerConnection],
    *,
    claimants: int,
    seconds: float,
    work: float = 0.02,
    pause: float = 0.0,
    timeout: float | None = None,
) -> Served:
    """Claim over and over for `seconds`, in `claimants` tasks; raise if a claim fails."""
    served = Served()
    end = trio.current_time() + seconds

    async def claimant() -> None:
        while trio.current_time() < end:
            asked = trio.current_time()
            async with pool.claim(timeout=timeout) as conn:
                waited = trio.current_time() - asked
                served.longest_wait = max(served.longest_wait, waited)
                served.by_backend[conn.backend.name] += 1
                await trio.sleep(work)
            await trio.sleep(pause)

    async with trio.open_nursery() as nursery:
        for _ in range(claimants):
            nursery.start_soon(claimant)
    return served


async def hold_many(pool: Pool[LedgerConnection], count: int, seconds: float) -> None:
    """Hold `count` claims at the same time, for `seconds`."""
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(hold, pool, seconds)


async def hold(
    pool: Pool[LedgerConnection], seconds: float, timeout: float | None = math.inf
) -> None:
    """Hold one claim for `seconds`."""
    async with pool.claim(timeout=timeout):
        await trio.sleep(seconds)


def connected(stats: PoolStats) -> dict[str, int]:
    """Return the number of established connections of each backend, by name."""
    return {
        name: each.unclaimed + each.checking + each.claimed for name, each in stats.backends.items()
    }


def assert_consistent(rig: Rig) -> None:
    """Check, at quiescence, the caps and that stats and ledger tell the same story."""
    stats, policy = rig.stats(), rig.pool.policy
    by_backend = {
        name: each.connecting + each.unclaimed + each.checking + each.claimed + each.closing
        for name, each in stats.backends.items()
    }
    assert stats.slots == stats.departed + sum(by_backend.values())
    assert stats.slots <= policy.max_slots
    assert all(count <= policy.set_config.max_count for count in by_backend.values())
    assert rig.connector.load <= stats.slots
    assert not (stats.waiting and any(each.unclaimed for each in stats.backends.values()))
    assert not rig.connector.ledger.violations


def tries_within(seconds: float, config: SetConfig | None = None) -> int:
    """Return the maximum number of tries of one prober in `seconds`, if each of them fails."""
    config = SetConfig() if config is None else config
    tries, spent = 1, 0.0
    while True:
        base = config.min_connection_backoff * 2.0 ** (tries - 1)
        # At the longest delay, half of it is jitter.
        delay = min(base, config.max_connection_backoff / 2)
        spent += max(delay, 1e-6)
        if spent > seconds:
            return tries
        tries += 1
