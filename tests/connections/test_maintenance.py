"""The maintenance of backends, by one task for all of them, and the tasks of slot sets."""

from __future__ import annotations

import gc
from collections import Counter

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qorb_trio import Backend, Connector, Policy, SetConfig, open_pool
from qorb_trio._connections.maintenance import BATCH_SIZE, RESOLUTION, Maintenance
from qorb_trio._pool import membership
from qorb_trio._slots.slot_set import SlotSet
from qorb_trio._slots.timer_queue import TimerEntry, TimerQueue
from qorb_trio.testing import FakeConnector, ManualResolver

from ..harness.fates import make_backends


class Plain(Connector[object]):
    """Has no hook but `connect`, and fails at first, at one time for all backends."""

    def __init__(self) -> None:
        self.fails = False

    async def connect(self, backend: Backend) -> object:
        """Return another object."""
        await trio.lowlevel.checkpoint()
        if self.fails:
            raise ConnectionRefusedError
        return object()


class Cleaned(Plain):
    """Its connections are cleaned after each claim."""

    async def on_recycle(self, conn: object) -> None:
        """Do nothing, for a while."""
        await trio.sleep(0.01)


class Checked(Plain):
    """Its connections can be checked."""

    async def is_valid(self, conn: object) -> bool:
        """Find nothing wrong."""
        return True


def wide(count: int, **config: float) -> Policy:
    """One slot for each of `count` backends."""
    set_config = SetConfig(max_count=1, **config)
    return Policy(max_slots=count, spares_wanted=count, set_config=set_config)


def slot_set_tasks(nursery: trio.Nursery) -> int:
    """The number of tasks of slot sets in the pool that runs in this nursery."""
    (pool,) = nursery.child_tasks
    (own,) = pool.child_nurseries
    return sum(task.name.startswith("<slot set") for task in own.child_tasks)


@pytest.mark.parametrize("connector", [Cleaned(), Plain()])
async def test_an_idle_backend_has_no_task(
    connector: Plain, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """A slot set has no task while no I/O is under way."""
    resolver = ManualResolver(make_backends(3))
    async with open_pool(nursery, resolver, connector, policy=wide(3)) as pool:
        await pool.wait_ready(3)
        await wait_all_tasks_blocked()
        assert slot_set_tasks(nursery) == 0
        async with pool.claim():
            pass
        await wait_all_tasks_blocked()
        assert slot_set_tasks(nursery) == isinstance(connector, Cleaned)
        await trio.sleep(1)
        assert slot_set_tasks(nursery) == 0
        assert sum(one.unclaimed for one in pool.stats().backends.values()) == 3


class Spawned(trio.abc.Instrument):
    """The names of the tasks that have begun."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        """Note a task."""
        self.names.append(task.name)


@pytest.mark.parametrize("count", [1, 3])
async def test_io_that_begins_alone_needs_one_task(
    count: int, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """A lone dial runs in the task of its slot set, and only several have a nursery."""
    spawned, resolver, nurseries = Spawned(), ManualResolver([]), 0

    class Watched(Plain):
        async def connect(self, backend: Backend) -> object:
            nonlocal nurseries
            nurseries += len(trio.lowlevel.current_task().child_nurseries)
            return await super().connect(backend)

    policy = Policy(max_slots=count, spares_wanted=count)
    async with open_pool(nursery, resolver, Watched(), policy=policy) as pool:
        await wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(spawned)
        (backend,) = make_backends(1)
        resolver.set([backend])
        await pool.wait_ready(count)
        trio.lowlevel.remove_instrument(spawned)
    names = Counter(spawned.names)
    assert names.pop(f"<slot set {backend.name!r}>") == 1
    dials = sum(number for name, number in names.items() if name.endswith("Dialer.dial"))
    assert dials == (0 if count == 1 else count)
    assert nurseries == 0


async def test_thousands_of_timers_are_served_together(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """While hundreds of backends fail, the loop wakes up for their dials 40 times a second."""
    count, connector = 2000, Plain()
    connector.fails = True

    times: set[float] = set()

    class Wakes(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            if task.name.startswith("<slot set"):
                times.add(trio.current_time())

    wakes, policy = Wakes(), wide(count, min_connection_backoff=1, max_connection_backoff=10)
    async with open_pool(nursery, ManualResolver(make_backends(count)), connector, policy=policy):
        await trio.sleep(30)
        trio.lowlevel.add_instrument(wakes)
        await trio.sleep(10)
        trio.lowlevel.remove_instrument(wakes)
    assert 300 < len(times) <= 10 / RESOLUTION + 1


async def test_back_offs_that_end_together_begin_in_batches(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Of many backends that are due at one time, a few are dialled in each pass of the loop."""
    count, connector, dials = 200, Plain(), Counter[int]()

    class Passes(trio.abc.Instrument):
        number = 0

        def before_io_wait(self, timeout: float) -> None:
            self.number += 1

    async def connect(backend: Backend) -> object:
        dials[passes.number] += 1
        return object()

    passes, connector.fails = Passes(), True
    policy = wide(count, min_connection_backoff=1, max_connection_backoff=1)
    async with open_pool(nursery, ManualResolver(make_backends(count)), connector, policy=policy):
        await trio.sleep(0.9)
        connector.connect = connect  # type: ignore[method-assign]
        trio.lowlevel.add_instrument(passes)
        await trio.sleep(0.2)
        trio.lowlevel.remove_instrument(passes)
    assert dials.total() == count
    # As soon as one has connected, the planner moves the probes of others, in its own batches.
    assert max(dials.values()) <= BATCH_SIZE + membership.BATCH_SIZE


async def test_backends_that_only_wait_for_their_retry_cost_nothing(
    autojump_clock: MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that has lost its connections is due for its next dial only."""
    times: list[float] = []

    def begin_due(self: Maintenance[object], slot_set: SlotSet[object], now: float) -> None:
        times.append(now)
        original(self, slot_set, now)

    original = Maintenance.begin_due
    monkeypatch.setattr(Maintenance, "begin_due", begin_due)
    backend = Backend(("b", 1))
    connector, resolver = FakeConnector(), ManualResolver([backend])
    policy = wide(1, min_connection_backoff=2000, max_connection_backoff=2000)
    async with open_pool(nursery, resolver, connector, policy=policy) as pool:
        await pool.wait_ready()
        connector.crash(backend)
        await trio.sleep(1900)
        assert len(times) <= 2
        connector.heal(backend)
        await trio.sleep(200)
        assert pool.stats().backends[backend.name].online == 1


async def test_a_backend_that_has_left_is_forgotten(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """The times of its next check and dial keep nothing of a backend that is gone."""
    resolver = ManualResolver(make_backends(3, "old"))
    async with open_pool(nursery, resolver, Checked(), policy=wide(3)) as pool:
        await pool.wait_ready(3)
        resolver.set(make_backends(3, "new"))
        await trio.sleep(1)
        gc.collect()
        sets = [it for it in gc.get_objects() if isinstance(it, SlotSet)]
        assert not [it for it in sets if it.backend.name.startswith("old")]


class Thing:
    """A thing that may be due."""

    timer_entry: TimerEntry | None = None


async def test_the_earliest_time_counts() -> None:
    """Each thing has one entry, the earliest that was asked for; endless times are none."""
    timers, begun, first, second = TimerQueue(), [0], Thing(), Thing()
    timers.bind(lambda: begun.append(1))
    timers.add(first, float("inf"))
    assert (timers.next_at, begun) == (float("inf"), [0])
    for at in (5.0, 7.0, 3.0):
        timers.add(first, at)
    timers.add(second, 4.0)
    assert (timers.next_at, begun) == (3.0, [0, 1])
    assert list(timers.take_due(2.9)) == []
    assert list(timers.take_due(3.5)) == [first]
    assert first.timer_entry is None
    timers.forget(second)
    timers.forget(second)
    assert list(timers.take_due(9.0)) == []
