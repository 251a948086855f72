"""Ejection and the other backends: how many may be ejected, and when all come back."""

from __future__ import annotations

import logging
import math
import random

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qorb_trio import Backend, Ejection, Policy, SetConfig
from qorb_trio.testing import FakeConnector, HookedFakeConnector

from .ejecting import Scene, Watcher, a_scene, lines, some_backends


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    """Keep what is logged at the level INFO too."""
    caplog.set_level(logging.INFO)


async def fail_all(scene: Scene, times: int = 200) -> None:
    """Have `times` claims end badly, on any backends."""
    for _ in range(times):
        claim = await scene.pool.acquire()
        claim.report(failed=True)
        claim.release()


@pytest.mark.parametrize(
    ("backends", "max_ejected", "most"),
    [(1, 1, 0), (2, 0.5, 1), (2, 1, 1), (3, 0.5, 1), (4, 0.5, 2), (4, 0.25, 1), (4, 1, 3)],
)
async def test_how_many_may_be_ejected(
    autojump_clock: MockClock, backends: int, max_ejected: float, most: int
) -> None:
    """At most the part `max_ejected` of the backends, and never the last one."""

    def numbers(policy: Policy) -> Policy:
        return attrs.evolve(policy, ejection=Ejection(max_ejected=max_ejected))

    async with a_scene(backends, policy=numbers) as scene:
        await fail_all(scene)
        assert len(scene.ejected) == most


@pytest.mark.parametrize("max_ejected", [0, 0.2])
async def test_none_may_be_ejected(autojump_clock: MockClock, max_ejected: float) -> None:
    """A part of less than one backend ejects none."""

    def numbers(policy: Policy) -> Policy:
        return attrs.evolve(policy, ejection=Ejection(max_ejected=max_ejected))

    async with a_scene(policy=numbers) as scene:
        await fail_all(scene)
        assert scene.ejected == []


async def test_failing_backends_count(autojump_clock: MockClock) -> None:
    """Backends that cannot be connected to leave less to be ejected."""
    async with a_scene() as scene:
        first, second, third, _ = scene.backends
        for dead in (first, second):
            scene.connector.crash(dead)
            for _ in range(8):
                async with scene.pool.claim():
                    pass
            await trio.sleep(1)
        while scene.stats(first).online or scene.stats(second).online:
            async with scene.pool.claim(), scene.pool.claim(), scene.pool.claim():
                await trio.sleep(0.1)
        await scene.fail(third, 20)
        assert scene.ejected == []
        assert scene.stats(third).failed_claims == 20
        scene.connector.heal()
        await trio.sleep(5)
        await scene.fail(third, 1)
        assert scene.ejected == ["c"]


async def test_a_priority_is_counted_by_itself(autojump_clock: MockClock) -> None:
    """Backends of other priorities do not count: the only one of its own is never ejected."""
    main, *standby = some_backends(3)
    standby = [Backend(it.address, name=it.name, priority=1) for it in standby]
    async with a_scene([main, *standby], spares=4) as scene:
        await fail_all(scene)
        assert scene.stats(main).failed_claims == 200
        assert scene.ejected == []


async def test_connections_of_other_priorities_are_no_reserve(autojump_clock: MockClock) -> None:
    """The only backend of its priority is not ejected while claims on standbys are held."""
    main, *standby = some_backends(3)
    standby = [Backend(it.address, name=it.name, priority=1) for it in standby]
    connector, watcher = FakeConnector(), Watcher()
    connector.crash(main)
    async with a_scene(
        [main, *standby], spares=6, ready=4, connector=connector, instruments=(watcher,)
    ) as scene:
        held = [await scene.pool.acquire() for _ in range(2)]
        assert {claim.backend.priority for claim in held} == {1}
        connector.heal(main)
        await trio.sleep(100)
        await scene.fail(main, 20)
        assert watcher.seen == []
        for claim in held:
            claim.release()


async def test_a_backend_that_never_was_online_is_no_reserve(autojump_clock: MockClock) -> None:
    """Nothing is ejected for a backend that has no connection yet."""
    connector, watcher = FakeConnector(), Watcher()
    connector.stall("b")
    async with a_scene(2, spares=4, ready=2, connector=connector, instruments=(watcher,)) as scene:
        assert [one.online for one in scene.pool.stats().backends.values()] == [True, False]
        await fail_all(scene)
        assert scene.ejected == []
        assert watcher.seen == [], "it was ejected and let back"


@pytest.mark.parametrize("how", ["crash", "leave", "other priority"])
async def test_when_the_others_go_all_come_back(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """Once the last working backend is gone, the ejected ones serve the waiting claimants."""
    watcher = Watcher()
    async with a_scene(2, spares=4, instruments=(watcher,)) as scene:
        bad, good = scene.backends
        due = await scene.eject(bad)
        served: list[Backend] = []

        async def wait() -> None:
            async with scene.pool.claim() as connection:
                served.append(connection.backend)

        now = trio.current_time()
        held = [await scene.pool.acquire() for _ in range(2)]
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            if how == "crash":
                scene.connector.fail(good)
                for claim in held:
                    claim.discard()
            elif how == "leave":
                scene.resolver.set([bad])
            else:
                scene.resolver.set([bad, Backend(good.address, name=good.name, priority=1)])
        assert trio.current_time() == now < due
        assert served == [bad, bad]
        assert scene.ejected == []
        assert watcher.seen == [("ejected", "a"), ("restored", "a")]
        scene.connector.heal()
        if how != "crash":
            for claim in held:
                claim.release()
    reason = "no other backend of its priority is online"
    assert lines(caplog, "no longer") == [
        ("INFO", f"pool pool: backend a is no longer ejected: {reason}")
    ]


async def test_the_ejected_ones_of_another_priority_stay(autojump_clock: MockClock) -> None:
    """Only the ejected ones of the priority that went offline are let back."""
    main = some_backends(3)
    standby = [Backend((name, 80), name=name, priority=1) for name in "xyz"]
    async with a_scene(main, spares=6) as scene:
        await scene.eject(main[0])
        scene.resolver.set([*main, *standby])
        for backend in main[1:]:
            scene.connector.fail(backend)
        held = [await scene.claim_on(backend) for backend in main[1:] * 2]
        await wait_all_tasks_blocked()
        assert scene.ejected == ["a"]
        for claim in held:
            claim.discard()
        await wait_all_tasks_blocked()
        assert scene.ejected == []


async def test_one_that_returns_is_fresh(autojump_clock: MockClock) -> None:
    """A backend that leaves while it is ejected and returns is used like a new one."""
    watcher = Watcher()
    async with a_scene(instruments=(watcher,)) as scene:
        bad, *others = scene.backends
        await scene.fail(bad, 4)
        await scene.fail(bad, 1)
        for resolved in (others, scene.backends):
            scene.resolver.set(resolved)
            await trio.sleep(0.1)
        await scene.pool.wait_ready(16)
        assert scene.ejected == []
        assert scene.stats(bad).failed_claims == 0
        await scene.fail(bad, 4)
        assert scene.ejected == []
        await scene.fail(bad, 1)
        assert watcher.seen == [("ejected", "a"), ("ejected", "a")]
        assert max(watcher.seconds) <= 5


async def test_one_that_leaves_takes_its_trial_along(autojump_clock: MockClock) -> None:
    """A backend that leaves as its trial is offered, or held, is forgotten."""
    async with a_scene() as scene:
        bad, *others = scene.backends
        for is_held in (False, True):
            due = await scene.eject(bad)
            await trio.sleep_until(due)
            await wait_all_tasks_blocked()
            claim = await scene.pool.acquire() if is_held else None
            scene.resolver.set(others)
            await wait_all_tasks_blocked()
            assert bad.name not in await scene.count(20)
            if claim is not None:
                assert claim.backend == bad
                claim.report(failed=True)
                claim.release()
            scene.resolver.set(scene.backends)
            await trio.sleep(1)
            await scene.pool.wait_ready(16)
        assert scene.ejected == []


async def test_its_description_may_change(autojump_clock: MockClock) -> None:
    """Weight and priority of an ejected backend change, and its trial is still offered."""
    async with a_scene() as scene:
        bad, *others = scene.backends
        due = await scene.eject(bad)
        await trio.sleep_until(due)
        await wait_all_tasks_blocked()
        scene.resolver.set([Backend(bad.address, name=bad.name, weight=7), *others])
        await wait_all_tasks_blocked()
        async with scene.pool.claim() as connection:
            assert connection.backend == bad
        assert scene.ejected == []


async def test_an_ejected_backend_that_has_most_connections(autojump_clock: MockClock) -> None:
    """Spares of an ejected backend give way to another backend, if claims need their room."""
    backends = [
        Backend((name, 80), name=name, weight=weight) for name, weight in [("a", 7), ("b", 1)]
    ]
    async with a_scene(backends, spares=8) as scene:
        bad, good = scene.backends
        assert [len(scene.connector.to(it)) for it in backends] == [7, 1]
        await scene.eject(bad)
        peak = 0
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(scene.count, 20, 0.05)
            for _ in range(10):
                await trio.sleep(0.1)
                peak = max(peak, scene.stats(good).claimed)
        assert peak == 4
        assert scene.stats(bad).total_claims <= 6
        assert scene.connector.peak <= 8


async def test_reconfigure_to_other_rules(autojump_clock: MockClock) -> None:
    """Other numbers hold from the next verdict on; a present ejection keeps its time."""
    async with a_scene() as scene:
        first, second, *_ = scene.backends
        due = await scene.eject(first)
        await scene.fail(second, 2)
        policy = scene.pool.policy
        scene.pool.reconfigure(attrs.evolve(policy, ejection=Ejection(failures=3, base_time=50)))
        assert scene.stats(first).ejected_until == due
        await scene.fail(second, 1)
        assert scene.ejected == ["a", "b"]
        until = scene.stats(second).ejected_until
        assert until is not None
        assert 25 <= until - trio.current_time() <= 50


async def test_reconfigure_to_no_ejection(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Without ejection all are let back and serve claimants; with it again, all are fresh."""
    async with a_scene(2, spares=4) as scene:
        bad = scene.backends[0]
        await scene.eject(bad)
        held = [await scene.pool.acquire() for _ in range(2)]
        policy = scene.pool.policy
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.count, 1)
            await wait_all_tasks_blocked()
            now = trio.current_time()
            scene.pool.reconfigure(attrs.evolve(policy, ejection=None))
        assert trio.current_time() == now
        assert scene.ejected == []
        for claim in held:
            claim.release()
        await fail_all(scene)
        assert scene.ejected == []
        scene.pool.reconfigure(policy)
        await scene.fail(bad, 4)
        assert scene.ejected == []
        await scene.fail(bad, 1)
        assert scene.ejected == ["a"]
    assert "ejection is switched off" in lines(caplog, "no longer")[0][1]


async def test_a_report_survives_a_reconfigure(autojump_clock: MockClock) -> None:
    """A report on a claim that is held counts, although ejection is switched off meanwhile."""
    async with a_scene(1, spares=1) as scene:
        policy = attrs.evolve(scene.pool.policy, ejection=None)
        claim = await scene.pool.acquire()
        claim.report(failed=True)
        scene.pool.reconfigure(policy)
        claim.release()
        async with scene.pool.claim():
            pass
        assert scene.stats(scene.backends[0]).failed_claims == 1


async def test_the_end_of_the_pool_restores_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A pool that ends with ejected backends says nothing of them, and closes everything."""
    watcher = Watcher()
    for is_due in (False, True):
        async with a_scene(instruments=(watcher,), connector=HookedFakeConnector()) as scene:
            due = await scene.eject(scene.backends[1])
            if is_due:
                await trio.sleep_until(due)
                await wait_all_tasks_blocked()
    assert watcher.seen == [("ejected", "b")] * 2
    assert lines(caplog, "no longer") == []


async def test_nothing_runs_while_nothing_is_ejected(autojump_clock: MockClock) -> None:
    """After an ejection is over, the pool has the tasks and the wake-ups that it had before."""

    def numbers(policy: Policy) -> Policy:
        quiet = SetConfig(health_interval=math.inf)
        return attrs.evolve(policy, rebalance_interval=math.inf, set_config=quiet)

    async with a_scene(policy=numbers) as scene:
        statistics = trio.lowlevel.current_statistics()
        due = await scene.eject(scene.backends[0])
        await wait_all_tasks_blocked()
        during = trio.lowlevel.current_statistics()
        assert during.tasks_living == statistics.tasks_living
        assert during.seconds_to_next_deadline == pytest.approx(due - trio.current_time())
        await trio.sleep_until(due)
        await wait_all_tasks_blocked()
        (await scene.pool.acquire()).release()
        await wait_all_tasks_blocked()
        after = trio.lowlevel.current_statistics()
        assert after.tasks_living == statistics.tasks_living
        assert after.seconds_to_next_deadline > 1000


@pytest.mark.parametrize("seed", range(5))
async def test_many_seeds_of_the_first_ejection(autojump_clock: MockClock, seed: int) -> None:
    """The first ejection lasts between half of `base_time` and all of it."""
    async with a_scene(2, spares=2, rng=random.Random(seed)) as scene:
        seconds = await scene.eject(scene.backends[0]) - trio.current_time()
        assert 2.5 <= seconds <= 5


async def test_one_that_comes_back_with_nothing_gets_its_share(autojump_clock: MockClock) -> None:
    """Others have taken all places of an ejected backend, and give some back at once."""

    def numbers(policy: Policy) -> Policy:
        return attrs.evolve(policy, ejection=Ejection(failures=4))

    async with a_scene(policy=numbers) as scene:
        bad = scene.backends[1]
        for claim in [await scene.pool.acquire() for _ in range(16)]:
            if claim.backend == bad:
                claim.report(failed=True)
                claim.discard()
            else:
                claim.release()
        await wait_all_tasks_blocked()
        assert scene.ejected == ["b"]
        assert len(scene.connector.open) == 16
        assert scene.connector.to(bad) == []
        scene.pool.reconfigure(attrs.evolve(scene.pool.policy, ejection=None))
        await trio.sleep(1)
        assert len(scene.connector.to(bad)) == 4
