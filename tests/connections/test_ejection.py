"""Backends that fail their claims: the scenarios of ejection, with pools in virtual time."""

from __future__ import annotations

import json
import logging
import random
from collections import Counter

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qorb_trio import Balancer, LeastLoaded, PeakEwma
from qorb_trio.qtop._snapshot import set_part

from .ejecting import Scene, Watcher, a_scene, lines


async def test_five_in_a_row(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """Five bad claims in a row: the next thousand go elsewhere, and a good trial ends it."""
    caplog.set_level(logging.INFO)
    watcher = Watcher()
    async with a_scene(instruments=(watcher,)) as scene:
        bad = scene.backends[1]
        kept = scene.connector.to(bad)
        due = await scene.eject(bad)
        assert 2.5 <= due - trio.current_time() <= 5
        served = await scene.count(1000, gap=0.002)
        assert sorted(served) == ["a", "c", "d"]
        assert (scene.stats(bad).total_claims, scene.stats(bad).failed_claims) == (5, 5)
        assert scene.connector.to(bad) == kept
        assert scene.connector.connects == 16
        await trio.sleep_until(due)
        await wait_all_tasks_blocked()
        assert scene.stats(bad).ejected_until == due
        async with scene.pool.claim() as connection:
            assert connection in kept
            assert scene.ejected == ["b"]
        assert scene.ejected == []
        assert watcher.seen == [("ejected", "b"), ("restored", "b")]
        assert watcher.reasons == ["5 claims in a row failed"]
        assert (await scene.count(400))["b"] > 50
    assert lines(caplog, "ejected") == [
        (
            "WARNING",
            (
                f"pool pool: backend b is ejected for {watcher.seconds[0]:.3g} s:"
                " 5 claims in a row failed"
            ),
        ),
        ("INFO", "pool pool: backend b is no longer ejected: its trial claim succeeded"),
    ]


async def test_a_good_one_ends_the_row(autojump_clock: MockClock) -> None:
    """Four bad, one good, four bad: nothing."""
    async with a_scene() as scene:
        bad = scene.backends[0]
        await scene.fail(bad, 4)
        await scene.succeed(bad)
        await scene.fail(bad, 4)
        assert scene.ejected == []
        assert scene.stats(bad).failed_claims == 8
        await scene.fail(bad, 1)
        assert scene.ejected == ["a"]


async def test_cancelled_bodies_count_for_nothing(autojump_clock: MockClock) -> None:
    """A thousand bodies that are cancelled: nothing."""
    async with a_scene() as scene:
        for _ in range(1000):
            with trio.CancelScope() as scope:
                async with scene.pool.claim():
                    scope.cancel()
                    await trio.sleep_forever()
        assert scene.ejected == []
        stats = scene.pool.stats().backends.values()
        assert sum(one.total_claims for one in stats) == 1000
        assert sum(one.failed_claims for one in stats) == 0


@pytest.mark.parametrize("balancer", [LeastLoaded(), PeakEwma()], ids=repr)
async def test_good_claims_count_by_the_short_way(
    autojump_clock: MockClock, balancer: Balancer
) -> None:
    """Good claims from before the first bad one count: 20 bad ones among 65 are not half."""
    async with a_scene(balancer=balancer) as scene:
        bad = scene.backends[0]
        await scene.succeed(bad, 40)
        began = trio.current_time()
        for _ in range(5):
            await scene.fail(bad, 4)
            await scene.succeed(bad)
        # An ejected backend would have been waited for.
        assert trio.current_time() == began
        assert scene.ejected == []


@pytest.mark.parametrize("seed", range(3))
async def test_when_all_are_bad_half_of_them_stay(autojump_clock: MockClock, seed: int) -> None:
    """All four bad: two are ejected, and the rest shares the load 50:50 within 5 %."""
    async with a_scene(rng=random.Random(seed)) as scene:
        served: Counter[str] = Counter()
        for i in range(2400):
            claim = await scene.pool.acquire()
            claim.report(failed=True)
            claim.release()
            if i >= 400:
                served[claim.backend.name] += 1
            assert len(scene.ejected) <= 2
            await trio.sleep(0.001)
        assert len(scene.ejected) == 2
        assert len(served) == 2
        assert all(950 <= count <= 1050 for count in served.values())


@pytest.mark.parametrize("seed", range(3))
async def test_the_fast_failer(autojump_clock: MockClock, seed: int) -> None:
    """One of four answers with an error after 1 ms: at most 12 of 4,775 claims fail."""
    outcomes: Counter[bool] = Counter()

    async def client(scene: Scene) -> None:
        try:
            async with scene.pool.claim() as connection:
                is_bad = connection.backend.name == "a"
                await trio.sleep(0.001 if is_bad else 0.1)
                if is_bad:
                    raise ConnectionResetError
        except ConnectionResetError:
            outcomes[False] += 1
        else:
            outcomes[True] += 1

    async with a_scene(rng=random.Random(seed)) as scene, trio.open_nursery() as nursery:
        for _ in range(4775):
            nursery.start_soon(client, scene)
            await trio.sleep(1 / 40)
    assert outcomes.total() == 4775
    assert 5 <= outcomes[False] <= 12


async def test_qtop_is_told(autojump_clock: MockClock) -> None:
    """The snapshot for qtop has the seconds until the trial and the claims that failed."""
    async with a_scene() as scene:
        bad = scene.backends[0]
        due = await scene.eject(bad)
        now = trio.current_time()
        part = json.loads(set_part('"pool"', scene.stats(bad), None, now))
        assert part["ejected_for"] == pytest.approx(due - now)
        assert part["failed_claims"] == 5
