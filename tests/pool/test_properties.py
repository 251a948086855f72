"""Whole pools with random backends, claims and churn, replayed from what Hypothesis draws."""

from __future__ import annotations

import random
from typing import TypeAlias, assert_never

import attrs
import trio
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from trio.testing import MockClock

from qorb_trio import Backend, ClaimTimeoutError, Policy, Pool, SetConfig

from ..harness import LedgerConnection
from ..harness.fates import (
    Fate,
    FatedConnector,
    Rig,
    a_pool,
    assert_consistent,
    connected,
    hold,
    make_backends,
    pass_time,
    settle,
)

# Explaining an example takes longer than finding it.
thrifty = settings(
    max_examples=30,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow],
)

BACKENDS = make_backends(5) + make_backends(2, "far", priority=1)

acts = st.sampled_from(["ok", "ok", "ok", "fail", "hang"])
delays = st.sampled_from([0.0, 0.0, 0.01, 0.3, 2.0])

fates = st.builds(
    Fate,
    connect=acts,
    connect_delay=delays,
    connect_linger=st.sampled_from([0.0, 0.0, 0.5]),
    connect_stubborn=st.booleans(),
    born_broken=st.sampled_from([False, False, False, True]),
    check=acts,
    check_delay=delays,
    recycle=acts,
    recycle_delay=delays,
    close=acts,
    close_delay=delays,
)

policies = st.builds(
    Policy,
    spares_wanted=st.integers(0, 6),
    max_slots=st.integers(1, 8),
    rebalance_interval=st.sampled_from([1, 10]),
    drain_timeout=st.sampled_from([0, 1, 5]),
    set_config=st.builds(
        SetConfig,
        max_count=st.integers(1, 4),
        max_connection_backoff=st.sampled_from([0.3, 1, 10]),
        health_interval=st.sampled_from([1, 10]),
        health_check_timeout=st.sampled_from([0.1, 3]),
        connect_timeout=st.sampled_from([0.5, 5]),
        disconnect_timeout=st.sampled_from([0, 1]),
    ),
)

index = st.integers(0, len(BACKENDS) - 1)


@attrs.frozen
class Claims:
    """The arrival of `count` claimants, with `timeout`, each holding for `seconds`."""

    count: int
    seconds: float
    timeout: float
    failing: bool


@attrs.frozen
class Change:
    """A backend changes its fate."""

    backend: int
    fate: Fate


@attrs.frozen
class Hangup:
    """A backend closes all its connections."""

    backend: int


@attrs.frozen
class Churn:
    """The resolver names another set."""

    backends: frozenset[int]


@attrs.frozen
class Wait:
    """Time passes."""

    seconds: float


Step: TypeAlias = "Claims | Change | Hangup | Churn | Wait"

steps: st.SearchStrategy[Step] = st.one_of(
    st.builds(
        Claims,
        count=st.integers(1, 12),
        seconds=st.sampled_from([0.0, 0.1, 3.0]),
        timeout=st.sampled_from([0.0, 0.05, 2.0]),
        failing=st.booleans(),
    ),
    st.builds(Change, backend=index, fate=fates),
    st.builds(Hangup, backend=index),
    st.builds(Churn, backends=st.frozensets(index)),
    st.builds(Wait, seconds=st.sampled_from([0.0, 0.01, 0.5, 7.0, 31.0])),
)

histories = st.lists(steps, min_size=1, max_size=25)


class WorkError(Exception):
    """An exception that ends the work of some claimants."""


Held: TypeAlias = dict[LedgerConnection, None]


async def claimant(pool: Pool[LedgerConnection], what: Claims, held: Held) -> None:
    """Claim once; if served, check that the connection is usable and has no other holder."""
    try:
        async with pool.claim(timeout=what.timeout) as conn:
            assert conn not in held
            assert conn.is_open
            assert not conn.broken
            held[conn] = None
            try:
                await trio.sleep(what.seconds)
                if what.failing:
                    raise WorkError
            finally:
                del held[conn]
    except (ClaimTimeoutError, WorkError):
        pass


async def perform(rig: Rig, step: Step, nursery: trio.Nursery, held: Held) -> None:
    """Let one step of a history happen."""
    match step:
        case Claims():
            for _ in range(step.count):
                nursery.start_soon(claimant, rig.pool, step, held)
        case Change():
            rig.connector.change(BACKENDS[step.backend], step.fate)
        case Hangup():
            for conn in rig.connector.open_to(BACKENDS[step.backend]):
                conn.broken = True
        case Churn():
            rig.resolver.set([BACKENDS[each] for each in sorted(step.backends)])
        case Wait():
            await trio.sleep(step.seconds)
        case _:
            assert_never(step)


def look(rig: Rig, held: Held) -> None:
    """Check what must hold at each quiescent moment."""
    assert_consistent(rig)
    stats = rig.stats()
    # Claims of backends that have left are in `departed`, and not told from what closes.
    known = set(stats.backends)
    claimed = sum(each.claimed for each in stats.backends.values())
    assert claimed <= len(held) + stats.departed
    assert claimed >= 0
    assert {conn.backend.name for conn in rig.connector.open if conn not in held} <= known


async def live(policy: Policy, first: dict[int, Fate], history: list[Step], seed: int) -> None:
    """Let a pool live through a history, then heal everything, and see that it is well."""
    connector = FatedConnector(seed=seed)
    for number, fate in first.items():
        connector.change(BACKENDS[number], fate)
    held: Held = {}
    async with a_pool(connector, BACKENDS, policy, seed=seed) as rig:
        async with trio.open_nursery() as nursery:
            for step in history:
                await perform(rig, step, nursery, held)
                await settle()
                look(rig, held)
        assert not held
        for backend in BACKENDS:
            connector.change(backend, Fate())
        rig.resolver.set(BACKENDS)
        await pass_time(40)
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(hold, rig.pool, 0.1, 30)
        await pass_time(40)
        look(rig, held)
        wanted = min(policy.spares_wanted, policy.max_slots, 5 * policy.set_config.max_count)
        assert sum(connected(rig.stats()).values()) == wanted
        assert rig.stats().departed == 0


@given(
    policy=policies,
    first=st.dictionaries(index, fates),
    history=histories,
    seed=st.integers(0, 2**16),
    schedule=st.randoms(use_true_random=False),
)
@thrifty
def test_any_history_keeps_the_caps_and_ends_clean(
    policy: Policy,
    first: dict[int, Fate],
    history: list[Step],
    seed: int,
    schedule: random.Random,
) -> None:
    """A pool keeps its caps, recovers and leaves nothing open, in every drawn history."""
    trio._core._run._r.seed(schedule.getrandbits(32))
    trio.run(live, policy, first, history, seed, clock=MockClock(autojump_threshold=0))


shares = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 10), st.booleans()), min_size=1, max_size=7
)


async def spread(drawn: list[tuple[int, int, bool]], policy: Policy) -> None:
    """Open a pool over these backends (priority, weight, live), and see where it settles."""
    backends = [
        Backend((f"b{number}.test", 1), name=f"b{number}", priority=priority, weight=weight)
        for number, (priority, weight, _) in enumerate(drawn)
    ]
    connector = FatedConnector(connect_delay=0.01)
    connector.crash(*(each for each, (_, _, live) in zip(backends, drawn, strict=True) if not live))
    async with a_pool(connector, backends, policy) as rig:
        await pass_time(4 * policy.rebalance_interval + 20)
        alive = [each for each, (_, _, live) in zip(backends, drawn, strict=True) if live]
        best = min((each.priority for each in alive), default=0)
        tier = {each.name for each in alive if each.priority == best}
        found = {name: count for name, count in connected(rig.stats()).items() if count}
        assert_consistent(rig)
        assert set(found) <= tier
        room = min(policy.max_slots, len(tier) * policy.set_config.max_count)
        wanted = min(policy.spares_wanted, room)
        # With more backends than slots, one spare may just be moving to another backend.
        in_tier = [each for name, each in rig.stats().backends.items() if name in tier]
        crowded = any(each.wanted == 0 for each in in_tier)
        moving = int(crowded and any(each.closing or each.connecting for each in in_tier))
        # Probes of dead backends may take up to half of the cap.
        least = wanted - max(1, policy.max_slots // 2) - moving
        assert least <= sum(found.values()) <= wanted
        if wanted and tier:
            assert found
        if all(live for _, _, live in drawn):
            # If there is room, the successor of a connection is dialled before it is closed.
            assert sum(found.values()) in {wanted - moving, wanted}


@given(drawn=shares, policy=policies)
@thrifty
def test_spares_settle_in_the_best_live_tier(
    drawn: list[tuple[int, int, bool]], policy: Policy
) -> None:
    """Of any mixture of priorities, weights and dead backends, the best live tier has it all."""
    trio.run(spread, drawn, policy, clock=MockClock(autojump_threshold=0))
