"""`MappedResolver` and `subset`: sets of backends as functions of sets."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qorb_trio import (
    Backend,
    FixedResolver,
    MappedResolver,
    PoolTerminatedError,
    Resolver,
    open_pool,
    subset,
)
from qorb_trio.testing import FakeConnector, ManualResolver

HUNDRED = [Backend((f"h{i}.test", 80)) for i in range(100)]


def names(backends: Collection[Backend]) -> list[str]:
    return [backend.name for backend in backends]


@asynccontextmanager
async def running(resolver: Resolver) -> AsyncIterator[list[list[str]]]:
    """The names in each set that a resolver sends while the block runs."""
    outbox, inbox = trio.open_memory_channel[Collection[Backend]](0)
    found: list[list[str]] = []

    async def collect() -> None:
        async for backends in inbox:
            found.append(names(backends))  # noqa: PERF401

    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect)
        nursery.start_soon(resolver.run, outbox)
        await wait_all_tasks_blocked()
        yield found
        nursery.cancel_scope.cancel()


async def test_each_set_goes_through_the_function() -> None:
    """The function is called for each set, and its result is sent if it has changed."""
    calls: list[list[str]] = []

    def first(backends: Collection[Backend]) -> Iterable[Backend]:
        calls.append(names(backends))
        return list(backends)[:1]

    manual = ManualResolver()
    async with running(MappedResolver(manual, first)) as found:
        assert (calls, found) == ([], [])
        for given in (["a:1", "b:1"], ["a:1", "c:1"], ["c:1"], []):
            manual.set(given)
            await wait_all_tasks_blocked()
        assert calls == [["a:1", "b:1"], ["a:1", "c:1"], ["c:1"], []]
        assert found == [["a:1"], ["c:1"], []]


async def test_a_change_of_priority_is_a_change() -> None:
    """A zone function that raises the priority of others is followed when it changes."""
    preferred = "a:1"

    def zone(backends: Collection[Backend]) -> list[Backend]:
        return [Backend(b.address, priority=int(b.name != preferred)) for b in backends]

    resolver = MappedResolver(FixedResolver(["a:1", "b:1"]), zone)
    async with running(resolver) as found:
        assert len(found) == 1
        preferred = "b:1"
        resolver.refresh()
        await wait_all_tasks_blocked()
        resolver.refresh()
        await wait_all_tasks_blocked()
        assert len(found) == 2


async def test_refresh_puts_a_backend_in_quarantine(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """`refresh` applies the function anew, also after the other resolver has returned."""
    quarantined: set[str] = set()

    def healthy(backends: Collection[Backend]) -> list[Backend]:
        return [backend for backend in backends if backend.name not in quarantined]

    resolver = MappedResolver(FixedResolver(["a:1", "b:1"]), healthy)
    resolver.refresh()  # before anything runs
    connector = FakeConnector()
    async with open_pool(nursery, resolver, connector) as pool:
        await pool.wait_ready(2)
        quarantined.add("a:1")
        resolver.refresh()
        await trio.sleep(1)
        assert set(pool.stats().backends) == {"b:1"}
        assert not connector.to("a:1")
        quarantined.clear()
        resolver.refresh()
        await trio.sleep(1)
        assert set(pool.stats().backends) == {"a:1", "b:1"}
    assert "FixedResolver" in repr(resolver)


async def test_a_refresh_during_a_send_is_not_lost() -> None:
    """While nobody takes the last set, `refresh` is remembered."""
    outbox, inbox = trio.open_memory_channel[Collection[Backend]](0)
    count = 1
    resolver = MappedResolver(FixedResolver(HUNDRED[:5]), lambda b: list(b)[:count])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(resolver.run, outbox)
        await wait_all_tasks_blocked()
        count = 3
        resolver.refresh()
        with trio.fail_after(5):
            assert len(await inbox.receive()) == 1
            assert len(await inbox.receive()) == 3
        nursery.cancel_scope.cancel()


async def test_refresh_from_a_thread_is_an_error() -> None:
    """Called in a thread, `refresh` says what to do, and changes nothing."""
    resolver = MappedResolver(FixedResolver(["a:1"]), list)
    async with running(resolver) as found:
        with pytest.raises(RuntimeError, match=r"trio\.from_thread\.run_sync"):
            await trio.to_thread.run_sync(resolver.refresh)
        await trio.to_thread.run_sync(trio.from_thread.run_sync, resolver.refresh)
        assert found == [["a:1"]]
    await trio.to_thread.run_sync(resolver.refresh)  # nothing runs


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (lambda _: 1 / 0, ZeroDivisionError),
        (lambda _: None, TypeError),
        (lambda _: ["a:1"], TypeError),
    ],
)
async def test_a_function_that_raises_crashes_the_pool(
    autojump_clock: MockClock, function: object, error: type[Exception]
) -> None:
    """An exception of the function, or a wrong result, ends the pool, as it is."""
    resolver = MappedResolver(FixedResolver(["a:1"]), function)  # type: ignore[arg-type]
    with pytest.raises(BaseExceptionGroup) as caught:
        async with (
            trio.open_nursery(strict_exception_groups=True) as nursery,
            open_pool(nursery, resolver, FakeConnector()) as pool,
        ):
            with pytest.raises(PoolTerminatedError) as ended:
                async with pool.claim():
                    raise AssertionError("there is no backend")
    assert caught.group_contains(error, depth=1)
    assert isinstance(ended.value.__cause__, error)


async def receive_and_fail(
    inbox: trio.MemoryReceiveChannel[Collection[Backend]], manual: ManualResolver, crash: Exception
) -> None:
    await inbox.receive()
    manual.fail(crash)


async def test_a_resolver_that_raises_crashes_as_it_is() -> None:
    """The other resolver's exception comes out of `run` without a group."""
    manual = ManualResolver(["a:1"])
    outbox, inbox = trio.open_memory_channel[Collection[Backend]](0)
    crash = ValueError("broken")
    async with inbox, trio.open_nursery() as nursery:
        nursery.start_soon(receive_and_fail, inbox, manual, crash)
        with pytest.raises(ValueError, match="broken") as caught:
            await MappedResolver(manual, list).run(outbox)
    assert caught.value is crash


async def test_the_snapshot_is_that_of_the_other_resolver() -> None:
    """`snapshot` is passed through."""

    class Knowing(Resolver):
        async def run(self, updates: trio.MemorySendChannel[Collection[Backend]]) -> None:
            raise AssertionError

        def snapshot(self) -> object:
            return "much"

    assert MappedResolver(Knowing(), list).snapshot() == "much"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((["a:1"], list), "resolver"),
        ((FixedResolver, list), "did you mean FixedResolver"),
        ((FixedResolver([]), None), "function"),
    ],
)
def test_wrong_arguments(arguments: tuple[object, object], words: str) -> None:
    """Wrong arguments are a `TypeError` that names them."""
    with pytest.raises(TypeError, match=words):
        MappedResolver(*arguments)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------- subsets


def test_subsets_are_spread_evenly() -> None:
    """1,000 clients with 20 of 100 backends each: every backend is in 150 to 250 subsets."""
    uses = Counter(name for seed in range(1000) for name in names(subset(20, seed=seed)(HUNDRED)))
    assert len(uses) == 100
    assert min(uses.values()) >= 150
    assert max(uses.values()) <= 250


@pytest.mark.parametrize("seed", ["client 7", 7, b"7"])
def test_a_seed_means_one_subset(seed: str | int | bytes) -> None:
    """The same seed gives the same subset, whatever the order of the set."""
    expected = set(subset(20, seed=seed)(HUNDRED))
    assert len(expected) == 20
    shuffled = HUNDRED.copy()
    random.Random(1).shuffle(shuffled)
    found = list(subset(20, seed=seed)(shuffled))
    assert set(found) == expected
    assert found == [backend for backend in shuffled if backend in expected]


def test_subsets_are_the_same_in_every_process() -> None:
    """The hash does not depend on the process: these members are for ever."""
    assert names(subset(3, seed="a")(HUNDRED)) == EXPECTED


EXPECTED = ["h16.test:80", "h84.test:80", "h88.test:80"]


def test_without_a_seed_subsets_differ() -> None:
    """By default each subset is drawn at random, once."""
    takes = [subset(20) for _ in range(5)]
    found = [frozenset(take(HUNDRED)) for take in takes]
    assert len(set(found)) == 5
    assert [frozenset(take(HUNDRED)) for take in takes] == found


def test_one_member_changes_at_most() -> None:
    """At most one member changes when one backend comes or goes."""
    for seed in range(20):
        take = subset(20, seed=seed)
        before = set(take(HUNDRED))
        for gone in HUNDRED:
            rest = [backend for backend in HUNDRED if backend is not gone]
            assert len(before - set(take(rest))) == (gone in before)
        after = set(take([*HUNDRED, Backend(("new.test", 80))]))
        assert len(after - before) <= 1


def test_subsets_are_per_priority() -> None:
    """Each priority has a subset of its own, and a small one is whole."""
    backends = [Backend((f"h{i}.test", 80), priority=i // 40) for i in range(100)]
    found = subset(30, seed=1)(backends)
    assert Counter(backend.priority for backend in found) == {0: 30, 1: 30, 2: 20}


@pytest.mark.parametrize(
    ("size", "seed", "error"),
    [
        (0, None, ValueError),
        (-1, None, ValueError),
        (1.5, None, TypeError),
        (True, None, TypeError),
        (1, 1.5, TypeError),
        (1, True, TypeError),
        (1, [], TypeError),
    ],
)
def test_wrong_arguments_of_subset(size: object, seed: object, error: type[Exception]) -> None:
    """Wrong arguments are errors that name them."""
    with pytest.raises(error, match=r"size|seed"):
        subset(size, seed=seed)  # type: ignore[arg-type]


async def test_a_pool_over_a_subset(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A pool over a subset connects to its members only."""
    take = subset(3, seed=5)
    connector = FakeConnector()
    async with open_pool(nursery, MappedResolver(FixedResolver(HUNDRED), take), connector) as pool:
        await pool.wait_ready(8)
        assert {one.backend for one in connector.open} == set(take(HUNDRED))
