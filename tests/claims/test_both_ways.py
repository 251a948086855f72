"""Every scenario of a claim by the short way and by the long one, with the same outcome.

`Claim._enter_fast` is `Claim._enter_slow` once more, without its coroutines. A pool takes it for
connectors without ``on_acquire`` while no instrument is there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import pytest
import trio
from trio.testing import MockClock

from qorb_trio import ClaimError, Instrument, Policy
from qorb_trio._claims.claim import Claim

from ..harness import Bench, PlainLedgerConnector, backends, fails, open_bench, policy_of, slow

ONE = policy_of(max_slots=1, spares_wanted=1, claim_timeout=5, drain_timeout=1)
TWO = policy_of(max_slots=2, spares_wanted=2, claim_timeout=5, drain_timeout=1)
EMPTY = policy_of(max_slots=2, spares_wanted=0, claim_timeout=5, drain_timeout=1)

Scenario: TypeAlias = Callable[["Story"], Awaitable[None]]


class Story:
    """A pool, and everything about its claims that a user can see."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.seen: list[Any] = []

    def note(self, *what: object) -> None:
        """Add a line to what is compared."""
        self.seen.append((trio.current_time(), *what))

    async def claim(self, name: str, hold: float = 0, *, timeout: float | None = None) -> None:
        """Claim, hold and give back; note how it went."""
        try:
            async with self.bench.claim(timeout=timeout) as conn:
                self.note(name, "got", conn.backend.name, conn.number)
                await trio.sleep(hold)
        except ClaimError as exc:
            self.note(name, type(exc).__name__, str(exc), repr(exc.__cause__))
        except BaseException as exc:
            self.note(name, type(exc).__name__)
            raise
        else:
            self.note(name, "gave back")

    async def until_taken(self) -> None:
        """Return in the tick in which a claim takes a spare."""
        while not self.bench.count("claimed"):  # noqa: ASYNC110 - the count is no event
            await trio.lowlevel.checkpoint()

    @asynccontextmanager
    async def clients(self) -> AsyncIterator[trio.Nursery]:
        """A nursery for claimants."""
        async with trio.open_nursery() as nursery:
            yield nursery

    def sum_up(self) -> None:
        """Note the books."""
        stats, ledger = self.bench.stats(), self.bench.ledger
        self.note(
            *(stats.claims, stats.waiting, stats.slots),
            *(self.bench.count("claimed"), self.bench.count("unclaimed")),
            *(len(ledger.connections), len(ledger.closed), ledger.granted),
        )


async def a_spare(story: Story) -> None:
    """A spare is there."""
    await story.bench.pool.wait_ready()
    await story.claim("one")
    await story.claim("two", timeout=0)


async def a_dial(story: Story) -> None:
    """The claimant waits for a dial."""
    story.bench.script.next("connect", slow(1))
    await story.claim("one")


async def a_release(story: Story) -> None:
    """Claimants wait for one another, in order."""
    async with story.clients() as nursery:
        for name in ("one", "two", "three"):
            nursery.start_soon(story.claim, name, 1)
            await trio.sleep(0.1)


async def no_barging(story: Story) -> None:
    """A claimant that comes as a connection is handed over does not pass those that wait."""
    async with story.clients() as nursery:
        nursery.start_soon(story.claim, "one", 1)
        await trio.sleep(0.1)
        nursery.start_soon(story.claim, "two", 1)
        await trio.sleep(0.9)
        nursery.start_soon(story.claim, "three", 1)


async def too_late(story: Story) -> None:
    """The time is up while all connections are in use."""
    async with story.bench.claim():
        await story.claim("one", timeout=1)
        await story.claim("two")
        await story.claim("three", timeout=0)


async def nothing_online(story: Story) -> None:
    """The time is up while nothing is online."""
    story.bench.script.always("connect", fails(OSError("down")))
    await story.claim("one", timeout=0)
    await story.claim("two", timeout=1)


async def no_backend(story: Story) -> None:
    """The resolver knows no backend."""
    story.bench.resolver.set([])
    await story.bench.settle()
    await story.claim("one", timeout=0)
    await story.claim("two", timeout=1)


async def cancelled_before(story: Story) -> None:
    """The claimant is cancelled before it begins."""
    await story.bench.pool.wait_ready()
    with trio.CancelScope() as scope:
        scope.cancel()
        await story.claim("one")


async def cancelled_while_waiting(story: Story) -> None:
    """The claimant is cancelled while it waits."""
    async with story.bench.claim():
        with trio.move_on_after(1):
            await story.claim("one")
    await story.claim("two")


async def cancelled_as_it_is_served(story: Story) -> None:
    """The claimant is cancelled in the tick in which it is handed a connection."""
    bench = story.bench
    async with story.clients() as nursery:
        claim = await bench.acquire()
        nursery.start_soon(story.claim, "one")
        await bench.settle()
        bench.release(claim)
        nursery.cancel_scope.cancel()
    await story.claim("two")


async def cancelled_as_it_takes_a_spare(story: Story) -> None:
    """The claimant is cancelled while it sleeps at its checkpoint, with the spare in hand."""
    await story.bench.pool.wait_ready()
    async with story.clients() as nursery:
        nursery.start_soon(story.claim, "one")
        await story.until_taken()
        nursery.cancel_scope.cancel()
    await story.claim("two")


async def the_body_raises(story: Story) -> None:
    """The body ends by an exception, so the connection is closed."""
    await story.bench.pool.wait_ready()
    with pytest.raises(LookupError):
        async with story.bench.claim() as conn:
            story.note("got", conn.number)
            raise LookupError
    await story.claim("two")


async def broken_spares(story: Story) -> None:
    """Spares that are broken are passed over."""
    await story.bench.pool.wait_ready(2)
    for conn in story.bench.ledger.idle:
        conn.broken = True
    await story.claim("one", timeout=0)
    await story.claim("two")


async def the_backend_leaves(story: Story) -> None:
    """The backend leaves while a claimant sleeps at its checkpoint."""
    bench = story.bench
    await bench.pool.wait_ready()
    async with story.clients() as nursery:
        nursery.start_soon(story.claim, "one")
        await story.until_taken()
        bench.resolver.set(backends("b"))
    await story.claim("two")


async def the_backend_has_left(story: Story) -> None:
    """The backend leaves while its connection is held, which is closed when it comes back."""
    bench = story.bench
    async with story.clients() as nursery:
        nursery.start_soon(story.claim, "one", 2)
        await trio.sleep(1)
        bench.resolver.set(backends("b"))
    await bench.settle()
    assert not [conn for conn in bench.ledger.live if conn.departed]
    await story.claim("two")


async def the_pool_ends(story: Story) -> None:
    """The pool ends while claimants wait, and others come afterwards."""
    bench = story.bench
    async with story.clients() as nursery, bench.claim():
        nursery.start_soon(story.claim, "one")
        await bench.settle()
        nursery.start_soon(bench.terminate)
        await bench.settle()
        await story.claim("two")
        await story.claim("three", timeout=0)
    await story.claim("four")


async def by_hand(story: Story) -> None:
    """A claim is made, released, discarded and forgotten by hand."""
    await story.bench.pool.wait_ready()
    for end in (story.bench.release, story.bench.discard):
        claim = await story.bench.acquire()
        story.note(claim.backend.name, claim.connection.number)
        end(claim)
        with pytest.raises(RuntimeError) as caught:
            claim.release()
        story.note(str(caught.value))


async def at_once(story: Story) -> None:
    """A spare is claimed without a wait, and where there is none that is refused."""
    await story.bench.pool.wait_ready()
    for _ in range(2):
        with story.bench.pool.claim_nowait() as conn:
            story.bench.ledger.take(conn, trio.lowlevel.current_task().name)
            story.note("got", conn.number, story.bench.stats().claims)
            with pytest.raises(trio.WouldBlock):
                story.bench.pool.claim_nowait()
            story.bench.ledger.give(conn)


async def twice(story: Story) -> None:
    """A claim cannot be entered a second time."""
    await story.bench.pool.wait_ready()
    claim = story.bench.pool.claim()
    async with claim as conn:
        story.bench.ledger.take(conn, trio.lowlevel.current_task().name)
        story.bench.ledger.give(conn)
    with pytest.raises(RuntimeError) as caught:
        await claim.__aenter__()
    story.note(str(caught.value))


async def one_in_another(story: Story) -> None:
    """A task that holds a claim makes another."""
    await story.bench.pool.wait_ready(2)
    async with story.bench.claim():
        await story.claim("inner", timeout=1)


SCENARIOS: list[tuple[Scenario, Policy]] = [
    *((it, ONE) for it in (a_spare, a_dial, a_release, no_barging, too_late, nothing_online)),
    *((it, ONE) for it in (cancelled_before, cancelled_while_waiting, no_backend)),
    *((it, ONE) for it in (cancelled_as_it_is_served, cancelled_as_it_takes_a_spare)),
    *((it, ONE) for it in (the_body_raises, the_backend_leaves, the_backend_has_left)),
    *((it, ONE) for it in (the_pool_ends, by_hand, twice, at_once)),
    *((it, TWO) for it in (broken_spares, one_in_another, a_release)),
    *((it, EMPTY) for it in (a_dial, a_release, nothing_online)),
]


class Listener(Instrument):
    """An instrument that hears of claims, for which a pool must take the long way."""

    def __init__(self) -> None:
        self.granted = 0

    def claim_done(self, pool: str, claim_id: int, slot_id: int) -> None:
        """Count it."""
        self.granted += 1


@pytest.mark.parametrize(
    ("scenario", "policy"),
    SCENARIOS,
    ids=lambda it: it.__name__ if callable(it) else f"{it.spares_wanted} of {it.max_slots}",
)
async def test_both_ways_do_the_same(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, scenario: Scenario, policy: Policy
) -> None:
    """A claim by the short way and one by the long way give the same at the same times."""
    short, begun = await tell(scenario, policy, monkeypatch)
    assert set(begun) <= {"_enter_fast", "_enter_nowait"}
    listener = Listener()
    long, begun = await tell(scenario, policy, monkeypatch, listener)
    assert set(begun) <= {"_enter_slow", "_enter_nowait"}
    assert begun
    assert short == long
    _, claims, *_ = long[-1]
    assert listener.granted == claims


async def tell(
    scenario: Scenario, policy: Policy, patch: pytest.MonkeyPatch, *instruments: Instrument
) -> tuple[list[Any], list[str]]:
    """Play a scenario from time 0 on; return what was seen, and the ways that claims took."""
    begun: list[str] = []
    with patch.context() as inner:
        for way in ("_enter_fast", "_enter_slow", "_enter_nowait"):
            inner.setattr(Claim, way, noting(getattr(Claim, way), begun))
        start = trio.current_time()
        async with open_bench(
            "a", policy=policy, connector=PlainLedgerConnector(), instruments=instruments
        ) as bench:
            story = Story(bench)
            await scenario(story)
            story.sum_up()
    return [(round(time - start, 6), *line) for time, *line in story.seen], begun


def noting(way: Callable[..., Any], begun: list[str]) -> Callable[..., Any]:
    """A way through a claim that notes that it is taken."""

    def enter(*arguments: Any) -> Any:
        begun.append(way.__name__)
        return way(*arguments)

    return enter
