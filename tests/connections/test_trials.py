"""The trial of an ejected backend: which claim it is, which connection, and what ends it."""

from __future__ import annotations

import logging
import math
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qorb_trio import Backend, Claim, Policy, SetConfig
from qorb_trio.testing import FakeConnection, FakeConnector, HookedFakeConnector

from .ejecting import Scene, Unlucky, Watcher, a_scene, lines


async def hold_all(scene: Scene, count: int) -> list[Claim[FakeConnection]]:
    """Claim `count` connections."""
    return [await scene.pool.acquire() for _ in range(count)]


def release_all(claims: list[Claim[FakeConnection]]) -> None:
    """Give them all back."""
    for claim in claims:
        claim.release()


async def test_the_next_claim_is_the_trial(autojump_clock: MockClock) -> None:
    """From the end of the time on, the ejected backend is offered first, but once at a time."""
    async with a_scene() as scene:
        bad = scene.backends[2]
        due = await scene.eject(bad)
        await trio.sleep_until(due - 0.001)
        assert bad.name not in await scene.count(100)
        await trio.sleep_until(due)
        await wait_all_tasks_blocked()
        first, *others = await hold_all(scene, 13)
        assert first.backend == bad
        assert bad not in {claim.backend for claim in others}
        with pytest.raises(trio.WouldBlock):
            scene.pool.claim_nowait()
        for claim in (*others, first):
            claim.release()
        assert scene.ejected == []
        held = await hold_all(scene, 4)
        assert len({claim.backend for claim in held}) == 4
        release_all(held)


async def test_claim_nowait_can_be_the_trial(autojump_clock: MockClock) -> None:
    """A claim that cannot wait takes the trial like any other."""
    async with a_scene() as scene:
        bad = scene.backends[0]
        await trio.sleep_until(await scene.eject(bad))
        await wait_all_tasks_blocked()
        with scene.pool.claim_nowait() as connection:
            assert connection.backend == bad
        assert scene.ejected == []


@pytest.mark.parametrize("options", [{"key": "x"}, {"label": "x"}, {"key": 7, "label": "x"}])
async def test_claims_with_options_can_be_the_trial(
    autojump_clock: MockClock, options: dict[str, Any]
) -> None:
    """A key or a label does not keep a claim from being the trial."""
    async with a_scene() as scene:
        bad = scene.backends[0]
        await trio.sleep_until(await scene.eject(bad))
        await wait_all_tasks_blocked()
        claim = await scene.pool.acquire(**options)
        other = await scene.pool.acquire(**options)
        assert claim.backend == bad
        assert other.backend != bad
        release_all([claim, other])
        assert scene.ejected == []


async def test_who_avoids_the_backend_is_not_its_trial(autojump_clock: MockClock) -> None:
    """A claim that avoids the ejected backend leaves the trial to the next, while others work."""
    async with a_scene() as scene:
        bad = scene.backends[0]
        await trio.sleep_until(await scene.eject(bad))
        await wait_all_tasks_blocked()
        claims = [await scene.pool.acquire(avoid={bad}) for _ in range(13)]
        assert [claim.backend == bad for claim in claims] == [False] * 12 + [True]
        release_all(claims)


@pytest.mark.parametrize("how", ["discard", "cancel", "leak", "program's error", "on_acquire"])
async def test_without_a_verdict_the_next_claim_is_the_trial(
    autojump_clock: MockClock, how: str
) -> None:
    """A trial that is discarded, cancelled or otherwise without a verdict is repeated at once."""
    connector = HookedFakeConnector() if how == "on_acquire" else FakeConnector()
    async with a_scene(connector=connector) as scene:
        bad = scene.backends[0]
        due = await scene.eject(bad)
        await trio.sleep_until(due)
        await wait_all_tasks_blocked()
        for _ in range(2):
            if how == "discard":
                claim = await scene.pool.acquire()
                assert claim.backend == bad
                claim.discard()
            elif how == "cancel":
                with trio.CancelScope() as scope:
                    async with scene.pool.claim() as connection:
                        assert connection.backend == bad
                        scope.cancel()
                        await trio.lowlevel.checkpoint()
            elif how == "leak":
                claim = await scene.pool.acquire()
                assert claim.backend == bad
                with pytest.warns(ResourceWarning):
                    del claim
            elif how == "program's error":
                with pytest.raises(ValueError, match="x"):
                    async with scene.pool.claim() as connection:
                        assert connection.backend == bad
                        raise ValueError("x")
            else:
                connector.fail(bad, on="on_acquire")
                async with scene.pool.claim() as connection:
                    assert connection.backend != bad
                connector.heal(bad, on="on_acquire")
            await wait_all_tasks_blocked()
            assert scene.stats(bad).ejected_until == due
        async with scene.pool.claim() as connection:
            assert connection.backend == bad
        assert scene.ejected == []


async def test_the_claim_right_after_a_discarded_trial_is_the_trial(
    autojump_clock: MockClock,
) -> None:
    """A claim in the same step in which a trial is discarded gets the backend."""
    async with a_scene() as scene:
        bad = scene.backends[0]
        await trio.sleep_until(await scene.eject(bad))
        await wait_all_tasks_blocked()
        for _ in range(2):
            claim = scene.pool.claim_nowait()
            assert claim.backend == bad
            claim.discard()
        with scene.pool.claim_nowait() as connection:
            assert connection.backend == bad
        assert scene.ejected == []


async def test_a_bad_trial_ejects_for_longer(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Each bad trial doubles the ejection, which is told each time."""
    watcher = Watcher()
    async with a_scene(instruments=(watcher,), rng=Unlucky(1)) as scene:
        bad = scene.backends[0]
        due = await scene.eject(bad)
        for _ in range(3):
            await trio.sleep_until(due)
            await wait_all_tasks_blocked()
            claim = await scene.pool.acquire()
            assert claim.backend == bad
            claim.report(failed=True)
            claim.release()
            assert bad.name not in await scene.count(50)
            until = scene.stats(bad).ejected_until
            assert until is not None
            due = until
        assert watcher.seconds == pytest.approx([5, 10, 20, 40])
        assert watcher.reasons[1:] == ["the trial claim failed"] * 3
        assert len(lines(caplog, "is ejected for")) == 4
        assert scene.stats(bad).failed_claims == 8


async def test_claims_from_before_do_not_end_it(autojump_clock: MockClock) -> None:
    """Good and bad ends of claims that began before the ejection change nothing."""
    async with a_scene() as scene:
        bad = scene.backends[0]
        claims = [await scene.claim_on(bad) for _ in range(3)]
        due = await scene.eject(bad)
        claims[0].release()
        claims[1].report(failed=True)
        claims[1].release()
        assert scene.stats(bad).ejected_until == due
        await trio.sleep_until(due)
        await wait_all_tasks_blocked()
        async with scene.pool.claim() as connection:
            assert connection.backend == bad
            claims[2].release()
            assert scene.ejected == ["a"]
            # The trial is still under way.
            held = await hold_all(scene, 12)
            assert bad not in {claim.backend for claim in held}
            release_all(held)
        assert scene.ejected == []


async def test_a_waiting_claimant_gets_the_trial(autojump_clock: MockClock) -> None:
    """A waiting claimant is handed the trial's connection at the instant it becomes due."""
    async with a_scene() as scene:
        bad = scene.backends[0]
        due = await scene.eject(bad)
        held = await hold_all(scene, 12)
        served: list[tuple[float, Backend]] = []

        async def wait() -> None:
            claim = await scene.pool.acquire()
            served.append((trio.current_time(), claim.backend))
            await trio.sleep(1)
            claim.release()

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait)
        # The first had the trial, whose good end served the two others with the rest.
        assert served == [(due, bad), (due + 1, bad), (due + 1, bad)]
        for claim in held:
            claim.release()


async def test_returned_connections_are_not_handed_on(autojump_clock: MockClock) -> None:
    """A connection released to an ejected backend is kept, although a claimant waits."""
    async with a_scene() as scene:
        bad = scene.backends[0]
        old = await scene.claim_on(bad)
        due = await scene.eject(bad)
        held = await hold_all(scene, 12)
        with trio.move_on_after(1) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(scene.count, 1)
                await wait_all_tasks_blocked()
                old.release()
        assert scene.pool.stats().waiting == 0
        assert scope.cancelled_caught
        assert scene.stats(bad).unclaimed == 4
        assert trio.current_time() < due
        for claim in held:
            claim.release()


async def test_a_broken_spare_is_replaced_by_another(autojump_clock: MockClock) -> None:
    """A spare that is found broken as it is lent leaves the trial to the next one."""
    async with a_scene() as scene:
        bad = scene.backends[0]
        due = await scene.eject(bad)
        *broken, good = scene.connector.to(bad)
        for connection in [*broken, good][1:]:
            scene.connector.break_connection(connection)
        await trio.sleep_until(due)
        await wait_all_tasks_blocked()
        async with scene.pool.claim() as connection:
            assert connection is broken[0]
        assert scene.ejected == []


async def test_without_a_spare_one_is_dialled(autojump_clock: MockClock) -> None:
    """Nothing is dialled during the ejection, and then one connection for the trial."""
    async with a_scene() as scene:
        bad = scene.backends[0]
        due = await scene.eject(bad)
        for connection in scene.connector.to(bad):
            scene.connector.break_connection(connection)
        await trio.sleep_until(due)
        await wait_all_tasks_blocked()
        async with scene.pool.claim() as connection:
            assert connection.backend != bad  # its spares are found broken
        await wait_all_tasks_blocked()
        assert len(scene.connector.to(bad)) == 1
        assert len([it for it in scene.connector.connections if it.backend == bad]) == 5
        async with scene.pool.claim() as connection:
            assert connection.backend == bad
        assert scene.ejected == []
        await trio.sleep(70)
        assert len(scene.connector.to(bad)) == 4


async def test_a_trial_without_a_spare_finds_all_claimed(autojump_clock: MockClock) -> None:
    """While all its connections are held by hung claims, a new one is dialled for the trial."""
    async with a_scene(spares=12) as scene:
        bad = scene.backends[0]
        hung = [await scene.claim_on(bad) for _ in range(2)]
        for _ in range(5):
            await scene.break_one(bad)
            await wait_all_tasks_blocked()
        assert scene.ejected == ["a"]
        assert (scene.stats(bad).claimed, scene.stats(bad).unclaimed) == (2, 0)
        until = scene.stats(bad).ejected_until
        assert until is not None
        await trio.sleep_until(until)
        await wait_all_tasks_blocked()
        assert scene.stats(bad).unclaimed == 1
        async with scene.pool.claim() as connection:
            assert connection.backend == bad
        assert scene.ejected == []
        for claim in hung:
            claim.release()


async def test_a_dial_that_fails_is_repeated(autojump_clock: MockClock) -> None:
    """While the dial for the trial fails, it is repeated with back-off, one at a time."""
    async with a_scene() as scene:
        bad = scene.backends[0]
        due = await scene.eject(bad)
        scene.connector.crash(bad)
        await trio.sleep_until(due)
        await wait_all_tasks_blocked()
        async with scene.pool.claim() as connection:
            assert connection.backend != bad  # its spares are found broken
        before = scene.connector.calls["connect"]
        await trio.sleep(20)
        tries = scene.connector.calls["connect"] - before
        assert 10 <= tries <= 40  # once a second, at the longest
        assert scene.connector.peak <= 16
        scene.connector.heal(bad)
        await trio.sleep(2)
        async with scene.pool.claim() as connection:
            assert connection.backend == bad
        assert scene.ejected == []


# With a connector that can check a connection.


async def test_the_spare_is_checked_first(autojump_clock: MockClock) -> None:
    """The spare for the trial passes `is_valid` before it is lent."""
    async with a_scene(connector=HookedFakeConnector()) as scene:
        bad = scene.backends[0]
        due = await scene.eject(bad)
        checked = scene.connector.calls["is_valid"]
        scene.connector.slow(bad, 0.5, on="is_valid")
        await trio.sleep_until(due)
        assert bad.name not in await scene.count(40, gap=0.01)
        assert scene.connector.calls["is_valid"] == checked + 1
        await trio.sleep_until(due + 0.5)
        await wait_all_tasks_blocked()
        async with scene.pool.claim() as connection:
            assert connection.backend == bad
            assert connection.history[-2][1:] == ("is_valid",)
        assert scene.ejected == []
        assert scene.connector.calls["is_valid"] == checked + 1


async def test_a_new_connection_for_the_trial_is_checked_once(autojump_clock: MockClock) -> None:
    """A claimant that waits gets the connection that was dialled for the trial, checked once."""
    connector = HookedFakeConnector()

    def two_each(policy: Policy) -> Policy:
        return attrs.evolve(policy, set_config=SetConfig(max_count=2))

    async with a_scene(2, spares=4, connector=connector, policy=two_each) as scene:
        bad = scene.backends[0]
        due = await scene.eject(bad)
        for connection in scene.connector.to(bad):
            scene.connector.break_connection(connection)
        others = await hold_all(scene, 2)
        assert all(claim.backend != bad for claim in others)
        await trio.sleep_until(due - 0.1)
        checked = connector.calls["is_valid"]
        async with scene.pool.claim() as connection:  # waits, for the others are all held
            assert connection.backend == bad
            assert connector.calls["is_valid"] <= checked + 3  # two spares were broken
        release_all(others)
        assert scene.ejected == []


async def test_spares_that_fail_the_check_are_not_lent(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """While the checks fail, no claim is lost; then a checked connection serves the trial."""
    async with a_scene(connector=HookedFakeConnector()) as scene:
        bad = scene.backends[0]
        due = await scene.eject(bad)
        scene.connector.stall(bad, on="is_valid")
        await trio.sleep_until(due)
        assert bad.name not in await scene.count(200, gap=0.5)
        assert scene.stats(bad).ejected_until == due
        assert not scene.stats(bad).unclaimed
        scene.connector.heal(bad, on="is_valid")
        await trio.sleep(3)
        async with scene.pool.claim() as connection:
            assert connection.backend == bad
            assert "is_valid" in [what for _, what in connection.history]
        assert scene.ejected == []
    # One line at the start, then at doubling distances, and one at the end.
    assert len(lines(caplog, "health check failed")) <= 8


async def test_a_checked_spare_that_breaks_leads_to_another_check(
    autojump_clock: MockClock,
) -> None:
    """A spare that is found broken after its check: the next one is checked before it is lent."""
    async with a_scene(connector=HookedFakeConnector()) as scene:
        bad = scene.backends[0]
        due = await scene.eject(bad)
        await trio.sleep_until(due)
        await wait_all_tasks_blocked()
        (checked,) = [it for it in scene.connector.to(bad) if it.history[-1][0] == due]
        scene.connector.break_connection(checked)
        checks = scene.connector.calls["is_valid"]
        async with scene.pool.claim() as connection:
            assert connection.backend != bad
        await wait_all_tasks_blocked()
        assert scene.connector.calls["is_valid"] > checks
        async with scene.pool.claim() as connection:
            assert connection.backend == bad
            assert connection is not checked
        assert scene.ejected == []


async def test_a_health_check_takes_the_offer_back(autojump_clock: MockClock) -> None:
    """While the only spare of an ejected backend is checked, it is not offered."""
    numbers = SetConfig(health_interval=10)
    async with a_scene(
        2,
        spares=2,
        connector=HookedFakeConnector(),
        policy=lambda it: attrs.evolve(it, set_config=numbers),
    ) as scene:
        bad, good = scene.backends
        due = await scene.eject(bad)
        await trio.sleep_until(due)
        await wait_all_tasks_blocked()
        scene.connector.slow(bad, 1, on="is_valid")
        for _ in range(100):
            await trio.sleep(0.25)
            if scene.stats(bad).checking:
                break
        assert not scene.stats(bad).unclaimed
        async with scene.pool.claim() as connection:
            assert connection.backend == good
        await trio.sleep(3)
        async with scene.pool.claim() as connection:
            assert connection.backend == bad
        assert scene.ejected == []


# Together with suspension and retirement.


async def test_a_suspended_pool_has_no_trial(autojump_clock: MockClock) -> None:
    """A trial that becomes due in a suspended pool waits for `resume`."""
    async with a_scene() as scene:
        bad = scene.backends[0]
        due = await scene.eject(bad)
        scene.pool.suspend()
        served: list[tuple[float, Backend]] = []

        async def wait() -> None:
            async with scene.pool.claim() as connection:
                served.append((trio.current_time(), connection.backend))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep_until(due + 1)
            assert served == []
            scene.pool.resume()
        assert served == [(due + 1, bad)]
        assert scene.ejected == []


async def test_a_return_in_a_suspended_pool_lends_nothing(autojump_clock: MockClock) -> None:
    """A backend that is let back in a suspended pool keeps its spares until `resume`."""
    async with a_scene(2, spares=4) as scene:
        bad, good = scene.backends
        await scene.eject(bad)
        scene.pool.suspend()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.count, 1)
            await wait_all_tasks_blocked()
            scene.resolver.set([bad])
            await wait_all_tasks_blocked()
            assert scene.ejected == []
            assert scene.pool.stats().waiting == 1
            assert good.name not in scene.pool.stats().backends
            scene.pool.resume()


async def test_the_spares_of_an_ejected_backend_grow_old(autojump_clock: MockClock) -> None:
    """A connection that expires during the ejection is not lent; one is dialled for the trial."""
    numbers = SetConfig(max_lifetime=4)
    async with a_scene(
        policy=lambda it: attrs.evolve(it, set_config=numbers), rng=Unlucky(1)
    ) as scene:
        bad = scene.backends[0]
        due = await scene.eject(bad)
        old = scene.connector.to(bad)
        await trio.sleep_until(due)
        await wait_all_tasks_blocked()
        async with scene.pool.claim() as connection:
            assert connection.backend == bad
            assert connection not in old
            assert trio.current_time() - connection.opened < 4
        assert scene.ejected == []


async def test_a_trial_is_a_use(autojump_clock: MockClock) -> None:
    """The claim that is a trial counts towards ``max_uses``, as any other."""
    numbers = SetConfig(max_uses=1000)
    async with a_scene(policy=lambda it: attrs.evolve(it, set_config=numbers)) as scene:
        bad = scene.backends[0]
        due = await scene.eject(bad)
        slots = scene.pool._parts.registry.active[bad.name].slots
        uses = {slot.id: slot.expiry.uses for slot in slots if slot.expiry}
        await trio.sleep_until(due)
        await wait_all_tasks_blocked()
        trial = await scene.pool.acquire()
        assert trial.backend == bad
        expiry = trial._slot.expiry
        assert expiry is not None
        assert expiry.uses == uses[trial._slot.id] + 1
        trial.release()


def numbered(policy: Policy) -> Policy:
    """A policy with shedding, whose waiters are refused after 0.1 s."""
    return attrs.evolve(policy, queue_target=0.05)


async def test_a_trial_is_not_lost_on_claimants_that_are_refused(
    autojump_clock: MockClock,
) -> None:
    """If all that wait are refused as the trial is handed over, the next claim is the trial."""
    async with a_scene(policy=numbered) as scene:
        bad = scene.backends[0]
        due = await scene.eject(bad)
        held = await hold_all(scene, 12)
        refused: list[float] = []

        async def wait() -> None:
            try:
                await scene.pool.acquire()
            except Exception:
                refused.append(trio.current_time())

        # The queue is watched in intervals of a second; its waiters are overdue at once.
        scene.pool._parts.dispatcher.queue.timer.set(math.inf)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep_until(due)
            overload = scene.pool._parts.dispatcher.queue.admission.overload
            assert overload is not None
            overload.is_overloaded = True
        assert refused
        assert refused[0] <= due + 1
        claim = await scene.pool.acquire()
        assert claim.backend == bad
        claim.release()
        assert scene.ejected == []
        for one in held:
            one.release()


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    """Keep what is logged at the level INFO too."""
    caplog.set_level(logging.INFO)
