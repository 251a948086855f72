"""Spares that the offer of a trial hides, and trials whose spares are not usable."""

from __future__ import annotations

import random
from collections.abc import Sequence

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qorb_trio import Backend, Candidate, ClaimError, SetConfig

from .ejecting import Scene, a_scene


class Moody:
    """A balancer that fails when it is told to."""

    fails = False

    def choose(self, candidates: Sequence[Candidate], rng: random.Random, now: float) -> Candidate:
        if self.fails:
            raise ZeroDivisionError("a bad mood")
        return candidates[0]


async def offer(scene: Scene) -> Backend:
    """Have a backend ejected, and wait until its trial is offered."""
    bad = scene.backends[0]
    await trio.sleep_until(await scene.eject(bad))
    await wait_all_tasks_blocked()
    return bad


def break_all(scene: Scene, backend: Backend) -> None:
    """Break all connections to a backend."""
    for connection in scene.connector.to(backend):
        scene.connector.break_connection(connection)


async def test_a_balancer_that_fails_while_a_trial_is_offered(autojump_clock: MockClock) -> None:
    """A claim that avoids the ejected backend ends with the balancer's error."""
    balancer = Moody()
    async with a_scene(balancer=balancer) as scene:
        bad = await offer(scene)
        balancer.fails = True
        with pytest.raises(ClaimError, match="a bad mood") as caught:
            await scene.pool.acquire(avoid={bad})
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        balancer.fails = False


async def test_a_key_after_a_trial_that_finds_no_spare(autojump_clock: MockClock) -> None:
    """A claim with a key gets one of the other backends, if the spares for the trial are broken."""
    async with a_scene() as scene:
        bad = await offer(scene)
        break_all(scene, bad)
        async with scene.pool.claim(key="k") as first:
            assert first.backend != bad
        async with scene.pool.claim(key="k", avoid={bad}) as second:
            assert second.backend == first.backend


async def test_hidden_spares_have_the_pool_grow(autojump_clock: MockClock) -> None:
    """Claims that avoid the ejected backend have others dialled as spares run out."""
    async with a_scene(spares=8, policy=lambda it: attrs.evolve(it, max_slots=16)) as scene:
        bad = await offer(scene)
        claims = [await scene.pool.acquire(avoid={bad}) for _ in range(6)]
        await wait_all_tasks_blocked()
        assert {claim.backend == bad for claim in claims} == {False}
        assert scene.pool.stats().slots > 8
        for claim in claims:
            claim.release()


async def test_a_waiting_claimant_and_a_trial_that_finds_no_spare(
    autojump_clock: MockClock,
) -> None:
    """The offer to a claimant in the queue is passed over if all spares are broken."""
    async with a_scene() as scene, trio.open_nursery() as nursery:
        bad = scene.backends[0]
        due = await scene.eject(bad)
        claims = [await scene.pool.acquire() for _ in range(12)]
        break_all(scene, bad)
        served: list[Backend] = []

        async def claim() -> None:
            async with scene.pool.claim(timeout=600) as connection:
                served.append(connection.backend)

        nursery.start_soon(claim)
        await trio.sleep_until(due)
        await wait_all_tasks_blocked()
        await trio.sleep(1)
        assert len(served) == 1  # by a connection that was dialled
        for one in claims:
            one.release()


async def test_claimants_wait_as_a_backend_with_broken_spares_is_restored(
    autojump_clock: MockClock,
) -> None:
    """Spares that are found broken as their backend is restored are passed over."""
    async with a_scene() as scene, trio.open_nursery() as nursery:
        bad = await offer(scene)
        trial = await scene.pool.acquire()
        assert trial.backend == bad
        claims = [await scene.pool.acquire() for _ in range(12)]
        spares = [it for it in scene.connector.to(bad) if it is not trial.connection]
        for connection in spares[:-1]:
            scene.connector.break_connection(connection)
        served: list[object] = []

        async def claim() -> None:
            async with scene.pool.claim(timeout=600) as connection:
                served.append(connection)
                await trio.sleep(5)

        for _ in range(4):
            nursery.start_soon(claim)
        await wait_all_tasks_blocked()
        trial.release()
        await wait_all_tasks_blocked()
        assert scene.ejected == []
        assert spares[-1] in served
        assert not set(spares[:-1]) & set(served)
        for one in claims:
            one.release()


async def test_spares_that_expire_while_the_program_is_busy(autojump_clock: MockClock) -> None:
    """A claim that comes before the timer finds no spare that is too old, not even for a trial."""
    numbers = SetConfig(max_lifetime=1000)
    async with a_scene(policy=lambda it: attrs.evolve(it, set_config=numbers)) as scene:
        await offer(scene)
        autojump_clock.jump(2000)
        now = trio.current_time()
        with pytest.raises(trio.WouldBlock):
            scene.pool.claim_nowait()
        async with scene.pool.claim() as connection:
            assert connection.opened >= now
