"""Balancers, keys and backends to avoid, in whole pools."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qorb_trio import (
    Backend,
    Balancer,
    Candidate,
    ClaimError,
    Instrument,
    LeastLoaded,
    PeakEwma,
    Pool,
    RoundRobin,
    open_pool,
)
from qorb_trio.testing import FakeConnection, FakeConnector, HookedFakeConnector, ManualResolver

from ..harness import backends, policy_of


@asynccontextmanager
async def full_pool(
    names: str | Sequence[Backend],
    each: int,
    *,
    connector: FakeConnector | None = None,
    balancer: Balancer = LeastLoaded(),  # noqa: B008 - frozen
    **options: Any,
) -> AsyncIterator[Pool[FakeConnection]]:
    """A pool with `each` connections to each of some backends, all of them spares.

    Their priorities are equal at first, because a standby is not dialled.
    """
    found = backends(names) if isinstance(names, str) else names
    slots = each * len(found)
    resolver = ManualResolver([Backend(it.address, name=it.name) for it in found])
    policy = policy_of(max_slots=slots, spares_wanted=slots, max_count=each, drain_timeout=0)
    async with (
        trio.open_nursery() as nursery,
        open_pool(
            nursery,
            resolver,
            connector or FakeConnector(),
            policy=policy,
            balancer=balancer,
            rng=random.Random(1),
            **options,
        ) as pool,
    ):
        await pool.wait_ready(slots)
        resolver.set(found)
        await wait_all_tasks_blocked()
        yield pool


# ------------------------------------------------------------------------------ balancers


async def share_of_the_slow_one(balancer: Balancer) -> float:
    """Part of 40 claims per second for 120 s that the one of four gets that is 10 times slower."""
    claims: Counter[str] = Counter()

    async def claim(pool: Pool[FakeConnection]) -> None:
        async with pool.claim() as conn:
            claims[conn.backend.name] += 1
            await trio.sleep(0.5 if conn.backend.name == "a" else 0.05)

    async with full_pool("abcd", 16, balancer=balancer) as pool, trio.open_nursery() as clients:
        began = trio.current_time()
        for tick in range(120 * 40):
            await trio.sleep_until(began + tick / 40)
            clients.start_soon(claim, pool)
    return claims["a"] / claims.total()


@pytest.mark.parametrize(
    ("balancer", "least", "most"),
    [(PeakEwma(), 0.0005, 0.03), (LeastLoaded(), 0.03, 0.09), (RoundRobin(), 0.24, 0.26)],
    ids=["PeakEwma", "LeastLoaded", "RoundRobin"],
)
async def test_a_slow_backend(
    balancer: Balancer, least: float, most: float, autojump_clock: MockClock
) -> None:
    """A backend that is ten times slower gets the part of the claims that its balancer gives."""
    assert least <= await share_of_the_slow_one(balancer) <= most


class Recording:
    """Chooses the first candidate, and notes all that it is told."""

    def __init__(self) -> None:
        self.shown: list[list[str]] = []
        self.told: list[tuple[str, float, bool]] = []
        self.times: list[float] = []

    def choose(self, candidates: Sequence[Candidate], rng: random.Random, now: float) -> Candidate:
        """Choose by name."""
        self.times.append(now)
        self.shown.append(sorted(it.backend.name for it in candidates))
        return min(candidates, key=lambda it: it.backend.name)

    def observe(self, candidate: Candidate, seconds: float, failed: bool, now: float) -> None:
        """Note it."""
        self.times.append(now)
        self.told.append((candidate.backend.name, seconds, failed))


async def test_a_balancer_is_told_how_long_claims_are_held(autojump_clock: MockClock) -> None:
    """Each claim's length and whether it failed, by any way to end it; not if it was cancelled."""
    balancer = Recording()
    async with full_pool("ab", 2, balancer=balancer) as pool:
        async with pool.claim():
            await trio.sleep(1)
        with pytest.raises(ValueError, match="body"):
            async with pool.claim():
                await trio.sleep(2)
                raise ValueError("body")
        await pool.wait_ready(4)
        claim = await pool.acquire()
        await trio.sleep(3)
        claim.discard()
        await pool.wait_ready(4)
        with pool.claim_nowait():
            await trio.sleep(4)
        with trio.move_on_after(5):
            async with pool.claim():
                await trio.sleep_forever()
    assert balancer.told == [("a", 1, False), ("a", 2, True), ("a", 3, False), ("a", 4, False)]
    assert balancer.times == sorted(balancer.times)


async def test_claims_in_quick_succession_are_samples(autojump_clock: MockClock) -> None:
    """Good claims that end within the same second are told of, one by one."""
    balancer = Recording()
    async with full_pool("ab", 2, balancer=balancer) as pool:
        for _ in range(20):
            async with pool.claim():
                await trio.sleep(0.01)
    told = [(round(seconds, 6), failed) for _, seconds, failed in balancer.told]
    assert told == [(0.01, False)] * 20


async def test_a_claim_that_never_began_is_no_sample(autojump_clock: MockClock) -> None:
    """A connection whose ``on_acquire`` fails tells a balancer nothing, nor a cancelled group."""
    balancer = Recording()
    connector = HookedFakeConnector()
    async with full_pool("ab", 1, connector=connector, balancer=balancer) as pool:
        connector.fail("a", on="on_acquire")
        async with pool.claim():
            await trio.sleep(1)
        with trio.CancelScope() as scope:
            async with pool.claim(), trio.open_nursery() as inner:
                inner.start_soon(trio.sleep_forever)
                scope.cancel()
    assert balancer.told == [("b", 1, False)]


async def test_a_claim_of_a_pool_that_has_ended_is_no_sample(autojump_clock: MockClock) -> None:
    """A claim that the pool's end has cut off is not reported when it is discarded."""
    balancer = Recording()
    async with trio.open_nursery() as nursery:
        policy = policy_of(max_slots=1, spares_wanted=1, drain_timeout=0)
        async with open_pool(
            nursery,
            ManualResolver(backends("a")),
            FakeConnector(),
            policy=policy,
            balancer=balancer,
        ) as pool:
            claim = await pool.acquire()
        claim.discard()
    assert not balancer.told


async def test_a_balancer_sees_at_most_eight_of_the_best_priority(
    autojump_clock: MockClock,
) -> None:
    """A balancer is asked about two to eight candidates with a spare, and never about one."""
    balancer = Recording()
    found = [Backend((f"{i}.test", 1), name=f"{i:02}", priority=int(i >= 20)) for i in range(30)]
    async with full_pool(found, 1, balancer=balancer) as pool:
        held = [await pool.acquire() for _ in range(20)]
        assert {len(shown) for shown in balancer.shown} == {2, 3, 4, 5, 6, 7, 8}
        assert all(name < "20" for shown in balancer.shown for name in shown)
        for claim in held:
            claim.release()


class Failing:
    """A balancer that fails while it is told to."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.fails = False

    def choose(self, candidates: Sequence[Candidate], rng: random.Random, now: float) -> Candidate:
        """Choose, or fail."""
        if not self.fails:
            return candidates[0]
        if self.how == "raises":
            raise ZeroDivisionError("of the balancer's")
        return "a stranger"  # type: ignore[return-value]


class Failures(Instrument):
    """Notes the claims that fail."""

    def __init__(self) -> None:
        self.reasons: list[BaseException] = []

    def claim_failed(self, pool: str, claim_id: int, reason: BaseException) -> None:
        """Note it."""
        self.reasons.append(reason)


@pytest.mark.parametrize("watched", [False, True], ids=["plain", "watched"])
@pytest.mark.parametrize("options", [{}, {"avoid": {Backend(("c.test", 1))}}], ids=["", "avoid"])
@pytest.mark.parametrize("how", ["raises", "a stranger"])
async def test_a_balancer_that_fails_fails_one_claim(
    how: str, options: dict[str, Any], watched: bool, autojump_clock: MockClock
) -> None:
    """The claim raises a `ClaimError` with the cause; nothing is lost, and the next one works."""
    balancer, failures = Failing(how), Failures()
    instruments = [failures][:watched]
    async with full_pool("ab", 2, balancer=balancer, instruments=instruments) as pool:
        before = pool.stats()
        balancer.fails = True
        with pytest.raises(ClaimError, match="no backend was chosen: balancer") as caught:
            await pool.acquire(**options)
        assert type(caught.value) is ClaimError
        if how == "raises":
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
        else:
            assert "'a stranger'" in str(caught.value.__cause__)
        assert failures.reasons == [caught.value][:watched]
        with pytest.raises(ClaimError, match="no backend was chosen"):
            pool.claim_nowait()
        assert pool.stats() == before
        balancer.fails = False
        held = [await pool.acquire(**options) for _ in range(4)]
        for claim in held:
            claim.release()


async def test_a_balancer_that_fails_as_a_pool_is_resumed(autojump_clock: MockClock) -> None:
    """`resume` fails those for whom it fails, in order, and serves the rest from one backend."""
    balancer = Failing("raises")
    got: list[str] = []

    async def claim(pool: Pool[FakeConnection]) -> None:
        try:
            async with pool.claim() as conn:
                got.append(conn.backend.name)
                await trio.sleep(1)
        except ClaimError as exc:
            got.append(f"{type(exc).__name__} by {type(exc.__cause__).__name__}")

    async with full_pool("ab", 1, balancer=balancer) as pool:
        pool.suspend()
        async with trio.open_nursery() as clients:
            for _ in range(3):
                clients.start_soon(claim, pool)
            await wait_all_tasks_blocked()
            balancer.fails = True
            pool.resume()
        assert got == ["ClaimError by ZeroDivisionError"] * 3
        assert pool.stats().waiting == 0


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (LeastLoaded, r"did you mean LeastLoaded\(\)"),
        ("least", "balancer must have a method choose"),
        (None, "balancer must have a method choose"),
    ],
)
async def test_a_wrong_balancer(wrong: Any, match: str, nursery: trio.Nursery) -> None:
    """`open_pool` refuses an object that is no balancer, before anything starts."""
    with pytest.raises(TypeError, match=match):
        open_pool(nursery, ManualResolver(), FakeConnector(), balancer=wrong)


# -------------------------------------------------------------------------------- affinity


async def served_by(pool: Pool[FakeConnection], keys: Sequence[Any]) -> dict[Any, str]:
    """The backend that serves each of these keys while all are free."""
    found = {}
    for key in keys:
        async with pool.claim(key=key) as conn:
            found[key] = conn.backend.name
    return found


async def test_keys_are_spread_and_stay(autojump_clock: MockClock) -> None:
    """10,000 keys over 10 backends: 900-1,100 each; without one, only its own keys move."""
    keys = [f"user {i}" for i in range(10_000)]
    async with full_pool("abcdefghij", 1) as pool:
        all_ten = await served_by(pool, keys)
    async with full_pool("abcdefghi", 1) as pool:
        nine = await served_by(pool, keys)
    counts = Counter(all_ten.values())
    assert len(counts) == 10
    assert min(counts.values()) >= 900
    assert max(counts.values()) <= 1100
    moved = {key for key in keys if all_ten[key] != nine[key]}
    assert moved == {key for key in keys if all_ten[key] == "j"}
    assert len({nine[key] for key in moved}) == 9


async def test_a_key_never_waits_for_its_backend(autojump_clock: MockClock) -> None:
    """Busy or gone, the first choice gives way to the key's own second, and that to the third."""
    async with full_pool("abcd", 1) as pool:
        held = [await pool.acquire(key=7) for _ in range(4)]
        order = [claim.backend.name for claim in held]
        assert sorted(order) == ["a", "b", "c", "d"]
        for claim in held:
            claim.release()
    async with full_pool("".join(sorted(order[1:])), 1) as pool:
        held = [await pool.acquire(key=7) for _ in range(3)]
        assert [claim.backend.name for claim in held] == order[1:]
        for claim in held:
            claim.release()


async def test_a_key_chooses_within_the_best_priority(autojump_clock: MockClock) -> None:
    """A spare of a better priority serves a key, even if it prefers another backend."""
    found = [Backend((f"{name}.test", 1), name=name, priority=int(name > "b")) for name in "abcd"]
    async with full_pool(found, 1) as pool:
        assert set((await served_by(pool, range(50))).values()) == {"a", "b"}


async def test_keys_of_three_types(autojump_clock: MockClock) -> None:
    """A str, bytes and an int are keys; nothing else is, and the error names it."""
    async with full_pool("ab", 1) as pool:
        assert len(await served_by(pool, ["k", b"k", 5, -1, 10**30, ""])) == 6
        for wrong in (1.5, True, ["k"], object()):
            with pytest.raises(TypeError, match="key must be a str, bytes or an int"):
                pool.claim(key=wrong)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="key must be a str, bytes or an int"):
                await pool.acquire(key=wrong)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- backends to avoid


async def test_a_retry_goes_elsewhere(autojump_clock: MockClock) -> None:
    """`avoid` takes another backend's spare if there is one, else what there is, else waits."""
    a, b, c = backends("abc")
    async with full_pool("abc", 1) as pool:
        for _ in range(20):
            async with pool.claim(avoid={a, b}) as conn:
                assert conn.backend == c
        async with pool.claim(avoid=[c]) as first, pool.claim(avoid=(c,)) as second:
            assert {first.backend, second.backend} == {a, b}
            claim = await pool.acquire(avoid={c})
            assert claim.backend == c
            served: list[Backend] = []

            async def wait() -> None:
                async with pool.claim(avoid={c}) as conn:
                    served.append(conn.backend)

            async with trio.open_nursery() as clients:
                clients.start_soon(wait)
                await wait_all_tasks_blocked()
                claim.release()
            assert served == [c]


async def test_avoid_stays_within_the_best_priority(autojump_clock: MockClock) -> None:
    """`avoid` does not make a claim leave the best priority."""
    primary, standby = Backend(("p.test", 1)), Backend(("s.test", 1), priority=1)
    async with full_pool([primary, standby], 1) as pool, pool.claim(avoid={primary}) as conn:
        assert conn.backend == primary


async def test_a_key_chooses_among_those_not_avoided(autojump_clock: MockClock) -> None:
    """With both, it is the key's own next choice that serves a retry."""
    async with full_pool("abcd", 2) as pool:
        order: list[str] = []
        for _ in range(4):
            avoided = [Backend((f"{name}.test", 1000), name=name) for name in order]
            async with pool.claim(key="k", avoid=avoided) as conn:
                order.append(conn.backend.name)
        assert sorted(order) == ["a", "b", "c", "d"]


async def test_wrong_backends_to_avoid(autojump_clock: MockClock) -> None:
    """Anything but a set of backends is refused at once, and named."""
    (a,) = backends("a")
    async with full_pool("a", 1) as pool:
        for wrong, match in [
            (a, "did you mean {"),
            ("a", "avoid must be an iterable of Backend"),
            (["a.test:1000"], "avoid: each element"),
            (5, "avoid must be an iterable of Backend"),
            (None, "avoid must be an iterable of Backend"),
        ]:
            with pytest.raises(TypeError, match=match):
                pool.claim(avoid=wrong)  # type: ignore[arg-type]


async def test_a_broken_spare_is_passed_over(autojump_clock: MockClock) -> None:
    """A claim with options closes what is broken, and takes the next."""
    connector = FakeConnector()
    async with full_pool("abc", 2, connector=connector) as pool:
        first = await pool.acquire(key=1)
        first.release()
        for conn in connector.to(first.backend):
            connector.break_connection(conn)
        async with pool.claim(key=1) as conn:
            assert not conn.broken


async def test_options_are_seen_by_instruments(autojump_clock: MockClock) -> None:
    """A claim with options has the events that any other has, in the same order."""
    heard: list[str] = []

    class Hearing(Instrument):
        def claim_start(self, pool: str, claim_id: int) -> None:
            heard.append(f"start {claim_id}")

        def handle_claimed(self, pool: str, claim_id: int, slot_id: int, backend: Backend) -> None:
            heard.append(f"handle {claim_id}")

        def claim_done(self, pool: str, claim_id: int, slot_id: int) -> None:
            heard.append(f"done {claim_id}")

    async with full_pool("ab", 1, instruments=[Hearing()]) as pool:
        async with pool.claim(key=1, label="x"):
            pass
        with pool.claim_nowait():
            pass
    assert heard == ["start 1", "handle 1", "done 1", "start 2", "handle 2", "done 2"]


async def test_claims_with_options_have_replacements_dialled(autojump_clock: MockClock) -> None:
    """A claim by key leaves as many spares as are wanted."""
    policy = policy_of(max_slots=8, spares_wanted=2, drain_timeout=0)
    async with trio.open_nursery() as nursery:
        async with open_pool(
            nursery, ManualResolver(backends("ab")), FakeConnector(), policy=policy
        ) as pool:
            await pool.wait_ready(2)
            async with pool.claim(key=1):
                await wait_all_tasks_blocked()
                spares = sum(it.unclaimed for it in pool.stats().backends.values())
                assert spares == 2
