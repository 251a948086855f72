"""The rules that refuse claimants before their deadlines, with a wait queue and without."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from math import inf
from statistics import median

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qorb_trio import ClaimTimeoutError, PoolOverloadedError, PoolStats
from qorb_trio._claims.admission import INTERVAL, Admission, Outage, Overload, Reason
from qorb_trio._claims.failure import ClaimFailure
from qorb_trio._claims.wait_queue import WaitQueue

STATS = PoolStats(name="p", claims=0, waiting=0, slots=0, departed=0, backends={})
TIMEOUT = ClaimFailure(kind=ClaimTimeoutError, message="too late", stats=STATS)
OVERLOAD = ClaimFailure(kind=PoolOverloadedError, message="overload", stats=STATS)


@attrs.frozen
class Claim:
    """One claim and its outcome."""

    name: int
    began: float
    wait: float
    #: The failure, or the rule that refused it as it came; `None` if it was served.
    refused: ClaimFailure | Reason | None

    @property
    def ended(self) -> float:
        """The time at which it was served or refused."""
        return self.began + self.wait


class Scene:
    """The part of a pool in which claims wait."""

    def __init__(
        self,
        nursery: trio.Nursery,
        connections: int,
        *,
        max_waiting: float = inf,
        fail_fast_after: float = inf,
        queue_target: float = inf,
    ) -> None:
        self.nursery = nursery
        self.free = connections
        self.queue: WaitQueue[bool] = WaitQueue()
        self.queue.configure(max_waiting, fail_fast_after, queue_target)
        self.claims: list[Claim] = []
        self.order: list[int] = []
        self.scopes: dict[int, trio.CancelScope] = {}
        self._number = 0
        nursery.start_soon(self.queue.expire_waiters, lambda: TIMEOUT, lambda: OVERLOAD)

    def begin(
        self, hold: float = 0.1, *, timeout: float = inf, again: bool = False, name: int = 0
    ) -> None:
        """Begin a claim."""
        self._number += 1
        self.nursery.start_soon(self._claim, name or self._number, hold, timeout, again)

    async def _claim(self, name: int, hold: float, timeout: float, again: bool) -> None:
        began = trio.current_time()
        with trio.CancelScope() as self.scopes[name]:
            refused = await self._acquire(name, began + timeout, again)
            wait = trio.current_time() - began
            self.claims.append(Claim(name, began, wait, refused))
            if refused is None:
                self.order.append(name)
                try:
                    await trio.sleep(hold)
                finally:
                    self.release()

    async def _acquire(
        self, name: int, deadline: float, again: bool
    ) -> ClaimFailure | Reason | None:
        queue, now = self.queue, trio.current_time()
        if self.free and not queue.waiting:
            self.free -= 1
            return None
        if queue.admission.is_on:
            reason = queue.admission.refuse(queue.waiting, now, again=again)
            if reason is not None:
                return reason
        task = trio.lowlevel.current_task()
        outcome = await queue.wait(task, name, deadline, again=again)
        return outcome if isinstance(outcome, ClaimFailure) else None

    def release(self) -> None:
        """Give a connection back."""
        self.queue.shed(lambda: OVERLOAD)
        if self.queue.waiting:
            self.queue.hand_off(True)
        else:
            self.free += 1

    @property
    def served(self) -> list[Claim]:
        """The claims that got a connection."""
        return [claim for claim in self.claims if claim.refused is None]

    @property
    def refused(self) -> list[Claim]:
        """The claims that were refused or failed."""
        return [claim for claim in self.claims if claim.refused is not None]


Act = Callable[[Scene], Awaitable[None]]


async def played(act: Act, connections: int, **rules: float) -> Scene:
    """A scene after an act, and after all its claims have ended."""
    async with trio.open_nursery() as nursery:
        scene = Scene(nursery, connections, **rules)
        await act(scene)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    return scene


# queue_target.


async def twice_the_capacity(scene: Scene) -> None:
    """A claim every 25 ms for 20 s."""
    for number in range(800):
        await trio.sleep_until(number / 40)
        scene.begin()


@pytest.mark.parametrize("seed", range(5))
async def test_queue_target_under_lasting_overload(autojump_clock: MockClock, seed: int) -> None:
    """With twice the load that two connections can serve, waits are short, and none is idle."""
    trio._core._run._r.seed(seed)
    scene = await played(twice_the_capacity, 2, queue_target=0.05)
    assert 394 <= len(scene.served) <= 410
    assert len(scene.claims) == 800
    assert all(claim.refused is OVERLOAD for claim in scene.refused)
    assert scene.queue.admission.shed == len(scene.refused)
    assert min(claim.ended for claim in scene.refused) == pytest.approx(2.05, abs=0.1)
    assert max(claim.wait for claim in scene.claims if claim.ended > 5) <= 0.105
    assert median(claim.wait for claim in scene.served) <= 0.1
    assert scene.order == sorted(scene.order)


async def test_without_queue_target_all_wait(autojump_clock: MockClock) -> None:
    """The same load without the rule is served in full, and waits for ten seconds at the median."""
    scene = await played(twice_the_capacity, 2)
    assert len(scene.served) == 800
    assert median(claim.wait for claim in scene.served) > 9
    assert not scene.queue.admission.is_on


async def test_a_burst_is_served_in_full(autojump_clock: MockClock) -> None:
    """A burst of 100 on 16 connections is served, and none is refused."""

    async def burst(scene: Scene) -> None:
        for _ in range(100):
            scene.begin()

    scene = await played(burst, 16, queue_target=0.05)
    assert len(scene.served) == 100
    assert scene.queue.admission.shed == 0


async def test_bursts_that_follow_each_other(autojump_clock: MockClock) -> None:
    """Bursts that the pool works off one after the other are all served."""

    async def bursts(scene: Scene) -> None:
        for number in range(20):
            await trio.sleep_until(number * 0.8)
            for _ in range(100):
                scene.begin()

    scene = await played(bursts, 16, queue_target=0.05)
    assert len(scene.served) == 2000


@pytest.mark.parametrize("pause", [0.4, 5])
async def test_an_empty_queue_ends_the_overload(autojump_clock: MockClock, pause: float) -> None:
    """After a pause in which all are served, the next burst is served in full again."""

    async def overload_and_burst(scene: Scene) -> None:
        await twice_the_capacity(scene)
        await trio.sleep(pause)
        assert not scene.queue.waiting
        for _ in range(16):
            scene.begin()

    scene = await played(overload_and_burst, 2, queue_target=0.05)
    assert len([claim for claim in scene.served if claim.began > 20]) == 16


async def test_a_load_that_ceases_ends_the_overload(autojump_clock: MockClock) -> None:
    """An interval with one short wait ends the overload, although the queue is never empty."""
    overload = Overload(0.05, is_suspended=False)
    overload.begin(0.0)
    overload.served(0.2)
    overload.tick(1.0, 0.8)
    assert overload.is_overloaded
    overload.served(0.05)
    overload.served(0.2)
    overload.tick(1.9, 1.8)
    assert overload.is_overloaded
    overload.tick(2.0, 1.8)
    assert not overload.is_overloaded


def test_nobody_is_served() -> None:
    """If no claimant is served in an interval, the age of the first one counts."""
    for age, is_overloaded in [(0.05, False), (0.06, True)]:
        overload = Overload(0.05, is_suspended=False)
        overload.begin(0.0)
        assert overload.next_tick(0.0) == INTERVAL * 0.05
        overload.tick(1.0, 1.0 - age)
        assert overload.is_overloaded is is_overloaded


def test_the_time_of_the_next_refusal() -> None:
    """At the time for which the timer is set, the first claimant is refused, not before."""
    overload = Overload(0.05, is_suspended=False)
    overload.begin(1e6)
    overload.tick(1e6 + 1, 1e6)
    time = overload.next_tick(1e6 + 0.95)
    assert time == pytest.approx(1e6 + 1.05)
    assert overload.refuses(1e6 + 0.95, time)
    assert not overload.refuses(1e6 + 0.95, time - 1e-6)
    assert overload.next_tick(1e6 + 1.95) == 1e6 + 2
    overload.tick(1e6 + 1.5, None)
    assert overload.next_tick(None) == inf


async def test_stuck_connections(autojump_clock: MockClock) -> None:
    """If no connection is released, claimants are refused after one interval, each at its time."""

    async def stuck(scene: Scene) -> None:
        for number in range(100):
            await trio.sleep_until(5 + number / 20)
            scene.begin(hold=1000)

    scene = await played(stuck, 1, queue_target=0.05)
    assert len(scene.refused) == 99
    assert min(claim.ended for claim in scene.refused) == pytest.approx(6.05)
    late = [claim.wait for claim in scene.refused if claim.began > 6]
    assert late == pytest.approx([0.1] * len(late), abs=1e-6)


async def test_returned_claimants_are_exempt(autojump_clock: MockClock) -> None:
    """A claimant that is put back is not refused by overload, and its wait is no sample."""

    async def put_back(scene: Scene) -> None:
        scene.begin(hold=3)
        await trio.sleep(0.01)
        scene.begin(again=True, name=101)
        await trio.sleep(0.01)
        scene.begin(name=102)
        await trio.sleep(2)
        assert [claim.name for claim in scene.refused] == [102]

    scene = await played(put_back, 1, queue_target=0.05)
    assert [claim.name for claim in scene.served] == [1, 101]
    assert scene.refused[0].ended == pytest.approx(1.02)


async def test_a_hand_over_may_refuse_all(autojump_clock: MockClock) -> None:
    """A released connection stays free if all claimants have waited for too long."""
    async with trio.open_nursery() as nursery:
        queue: WaitQueue[bool] = WaitQueue()
        queue.configure(inf, inf, 0.05)
        scene = Scene(nursery, 0)
        scene.queue = queue  # its timer does not run
        for _ in range(3):
            scene.begin()
        await trio.sleep(0.2)
        scene.scopes[2].cancel()
        await wait_all_tasks_blocked()
        assert queue.admission.overload is not None
        queue.admission.overload.tick(1.0, 0.0)
        scene.release()
        await wait_all_tasks_blocked()
        assert [claim.refused for claim in scene.claims] == [OVERLOAD, OVERLOAD]
        assert (scene.free, queue.waiting, queue.admission.shed) == (1, 0, 2)
        nursery.cancel_scope.cancel()


async def test_cancelled_claimants_are_no_measure(autojump_clock: MockClock) -> None:
    """The first claimant in the queue is the first that is still there."""

    async def impatient(scene: Scene) -> None:
        scene.begin(hold=1000)
        await trio.sleep(0.01)
        for _ in range(3):
            scene.begin()
        await trio.sleep(0.97)
        scene.begin(timeout=5)
        await wait_all_tasks_blocked()
        for name in (2, 3, 4):
            scene.scopes[name].cancel()

    scene = await played(impatient, 1, queue_target=0.05)
    assert [claim.name for claim in scene.refused] == [5]
    assert scene.refused[0].ended == pytest.approx(2.01)


@pytest.mark.parametrize("seed", range(20))
async def test_refusals_change_nothing_for_the_others(autojump_clock: MockClock, seed: int) -> None:
    """With any load, claims are served in order, and only those that waited long are refused."""
    rng = random.Random(seed)
    target = rng.choice([0.02, 0.05, 0.2])

    async def load(scene: Scene) -> None:
        while trio.current_time() < 20:
            scene.begin(rng.expovariate(10), timeout=rng.choice([inf, 1.0]))
            if rng.random() < 0.1:
                scene.scopes.get(rng.randrange(1, 500), trio.CancelScope()).cancel()
            await trio.sleep(rng.expovariate(rng.choice([10, 40, 80])))

    scene = await played(load, 3, queue_target=target)
    assert scene.free == 3
    waited = [claim for claim in scene.served if claim.wait]
    assert [claim.name for claim in waited] == sorted(claim.name for claim in waited)
    shed = [claim for claim in scene.refused if claim.refused is OVERLOAD]
    assert all(claim.wait > 2 * target for claim in shed)
    assert len(shed) == scene.queue.admission.shed
    assert all(claim.wait == pytest.approx(1) for claim in scene.refused if claim not in shed)


# max_waiting.


@pytest.mark.parametrize("limit", [0, 1, 5])
async def test_max_waiting(autojump_clock: MockClock, limit: int) -> None:
    """The claimant that would be one too many is refused at once, and counted."""

    async def crowd(scene: Scene) -> None:
        for _ in range(10):
            scene.begin()
            await wait_all_tasks_blocked()

    scene = await played(crowd, 2, max_waiting=limit)
    assert len(scene.served) == 2 + limit
    assert all(claim.refused is Reason.TOO_MANY_WAIT for claim in scene.refused)
    assert all(claim.wait == 0 for claim in scene.refused)
    assert scene.queue.admission.shed == 8 - limit


async def test_a_place_that_becomes_free(autojump_clock: MockClock) -> None:
    """A claimant that is served, cancelled or late makes room for another."""

    async def act(scene: Scene) -> None:
        scene.begin(hold=4.5)
        for name in (2, 3, 4):
            await wait_all_tasks_blocked()
            scene.begin(timeout=1)
            await wait_all_tasks_blocked()
            if name == 2:
                scene.scopes[2].cancel()
            await trio.sleep(2)

    scene = await played(act, 1, max_waiting=1)
    assert [(claim.name, claim.refused) for claim in scene.claims] == [
        (1, None),
        (3, TIMEOUT),
        (4, None),
    ]


async def test_one_that_is_put_back_is_not_counted_again(autojump_clock: MockClock) -> None:
    """A claimant whose connection failed waits on, however many are allowed to wait."""

    async def act(scene: Scene) -> None:
        scene.begin(hold=1)
        await wait_all_tasks_blocked()
        scene.begin(again=True)

    scene = await played(act, 1, max_waiting=0)
    assert len(scene.served) == 2
    assert scene.queue.admission.shed == 0


# fail_fast_after.


async def test_fail_fast(autojump_clock: MockClock) -> None:
    """After the time, those that wait fail, and newcomers at once, until the service is back."""

    async def act(scene: Scene) -> None:
        for number in range(10):
            await trio.sleep_until(number)
            scene.queue.note_outage(is_down=True)
            scene.begin(again=number % 3 == 0)
        await trio.sleep_until(10)
        scene.queue.note_outage(is_down=False)
        scene.begin(timeout=2)

    scene = await played(act, 0, fail_fast_after=4.5)
    ended = {claim.began: (claim.ended, claim.refused) for claim in scene.claims}
    assert ended == {
        **dict.fromkeys(range(5), (4.5, TIMEOUT)),
        **{time: (time, Reason.SERVICE_IS_DOWN) for time in range(5, 10)},
        10: (12, TIMEOUT),
    }
    assert scene.queue.admission.shed == 0


async def test_outages_that_are_shorter(autojump_clock: MockClock) -> None:
    """A service that comes back in time is not down, and each outage counts from its start."""

    async def act(scene: Scene) -> None:
        scene.begin(timeout=30)
        for _ in range(5):
            scene.queue.note_outage(is_down=True)
            await trio.sleep(4)
            scene.queue.note_outage(is_down=False)
            await trio.sleep(1)
        scene.queue.note_outage(is_down=True)

    scene = await played(act, 0, fail_fast_after=4.5)
    assert [claim.ended for claim in scene.claims] == [29.5]


async def test_an_outage_that_nobody_waits_in(autojump_clock: MockClock) -> None:
    """A long outage without claims makes no failure, and the timer sleeps."""
    made = 0

    def failure() -> ClaimFailure:
        nonlocal made
        made += 1
        return TIMEOUT

    async with trio.open_nursery() as nursery:
        queue: WaitQueue[bool] = WaitQueue()
        queue.configure(inf, 0, inf)
        nursery.start_soon(queue.expire_waiters, failure)
        queue.note_outage(is_down=True)
        await trio.sleep(1000)
        assert queue.admission.refuse(0, 1000, again=False) is Reason.SERVICE_IS_DOWN
        assert made == 0
        nursery.cancel_scope.cancel()


def test_an_outage_is_told_once() -> None:
    """The claimants that wait are failed once in each outage."""
    outage = Outage()
    outage.update(0, is_down=True)
    assert not outage.tick(1e9)
    outage.configure(5)
    assert outage.next_tick() == 5
    assert [outage.tick(now) for now in (4, 5, 6)] == [False, True, False]
    assert outage.next_tick() == inf
    outage.update(7, is_down=False)
    outage.update(8, is_down=True)
    assert outage.next_tick() == 13


# Changes at run time.


async def test_rules_that_change(autojump_clock: MockClock) -> None:
    """A rule that is switched on holds from now on, also for those that wait already."""

    async def act(scene: Scene) -> None:
        scene.begin(hold=1000)
        await wait_all_tasks_blocked()
        scene.begin()
        await trio.sleep(5)
        scene.queue.configure(inf, inf, 0.05)
        await trio.sleep(0.5)
        scene.queue.configure(inf, inf, 0.05)  # the same again
        await trio.sleep(0.4)
        assert not scene.claims[1:]
        await trio.sleep(0.2)
        assert [claim.ended for claim in scene.claims[1:]] == [pytest.approx(6)]
        scene.begin()
        await wait_all_tasks_blocked()
        scene.queue.configure(inf, inf, 0.1)
        await trio.sleep(1.9)
        assert len(scene.claims) == 2
        await trio.sleep(0.2)
        assert len(scene.claims) == 3
        scene.queue.configure(inf, inf, inf)
        scene.begin(timeout=50)
        await trio.sleep(51)
        assert scene.claims[3].refused is TIMEOUT

    await played(act, 1)


async def test_a_suspended_pool_does_not_refuse(autojump_clock: MockClock) -> None:
    """While the pool lends nothing on purpose, waits say nothing; then they do again."""

    async def act(scene: Scene) -> None:
        scene.queue.admission.suspend()
        scene.begin()
        await trio.sleep(10.5)  # in the middle of an interval
        assert not scene.claims
        scene.queue.admission.resume(trio.current_time())
        await trio.sleep(0.9)
        assert not scene.claims
        await trio.sleep(0.2)
        assert [claim.refused for claim in scene.claims] == [OVERLOAD]
        scene.begin()
        await trio.sleep(0.05)
        scene.queue.admission.suspend()
        scene.queue.configure(inf, inf, 0.06)
        await trio.sleep(10)
        assert len(scene.claims) == 1

    await played(act, 0, queue_target=0.05)


def test_a_pool_without_the_rules_can_be_suspended() -> None:
    """To suspend and to resume needs no rule that is on."""
    admission = Admission()
    admission.suspend()
    admission.resume(1.0)
    assert not admission.is_on
    assert admission.refuse(10**6, 1.0, again=False) is None


async def test_without_rules_no_time_is_noted(autojump_clock: MockClock) -> None:
    """While `queue_target` is off, waiters have no time of arrival."""
    async with trio.open_nursery() as nursery:
        scene = Scene(nursery, 0)
        scene.begin()
        await wait_all_tasks_blocked()
        assert not hasattr(scene.queue._queue[0], "arrival")
        nursery.cancel_scope.cancel()
