"""The manual resolver sends what it is given, when it is given."""

from __future__ import annotations

from collections.abc import Collection

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from qorb_trio import Backend
from qorb_trio.testing import ManualResolver

A = Backend(("a.test", 1))
B = Backend(("b.test", 2))
Sets = list[Collection[Backend]]


def taken(receive: trio.MemoryReceiveChannel[Collection[Backend]]) -> Sets:
    """The sets that have arrived by now."""
    sets: Sets = []
    while True:
        try:
            sets.append(receive.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            return sets


async def test_what_is_given_first_is_sent_first() -> None:
    """The set of the constructor, then those of `set`, arrive in order."""
    resolver = ManualResolver([A])
    send, receive = trio.open_memory_channel[Collection[Backend]](10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(resolver.run, send)
        await wait_all_tasks_blocked()
        assert taken(receive) == [(A,)]
        resolver.set([A, B])
        resolver.set([])
        await wait_all_tasks_blocked()
        assert taken(receive) == [(A, B), ()]
        assert not resolver.backends
        nursery.cancel_scope.cancel()


async def test_the_last_set_before_the_run_is_the_first_sent() -> None:
    """Sets that were replaced before `run` began are not sent."""
    resolver = ManualResolver()
    assert not resolver.backends
    resolver.set([A])
    resolver.set([B])
    assert resolver.backends == (B,)
    resolver.finish()
    send, receive = trio.open_memory_channel[Collection[Backend]](10)
    await resolver.run(send)
    assert taken(receive) == [(B,)]


@pytest.mark.parametrize(("given", "sent"), [(None, []), ([], [()])])
async def test_nothing_and_the_empty_set_differ(given: list[Backend] | None, sent: Sets) -> None:
    """Without backends nothing is sent; an empty collection is an empty set."""
    resolver = ManualResolver(given)
    send, receive = trio.open_memory_channel[Collection[Backend]](10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(resolver.run, send)
        await wait_all_tasks_blocked()
        assert taken(receive) == sent
        nursery.cancel_scope.cancel()


def test_pairs_and_strings_are_backends_too() -> None:
    """All that a fixed resolver takes is taken here."""
    resolver = ManualResolver([("a.test", 1), "b.test:2", "[::1]:3", A])
    assert resolver.backends == (A, B, Backend(("::1", 3)), A)


async def test_a_slow_reader_gets_every_set() -> None:
    """Sets given while the pool is busy wait for it."""
    resolver = ManualResolver([A])
    send, receive = trio.open_memory_channel[Collection[Backend]](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(resolver.run, send)
        await wait_all_tasks_blocked()
        resolver.set([B])
        resolver.set([A, B])
        resolver.finish()
        assert [await receive.receive() for _ in range(3)] == [(A,), (B,), (A, B)]


async def test_fail_makes_run_raise_after_the_last_set() -> None:
    """`fail` raises out of `run`, now or in a later one."""
    resolver = ManualResolver([A])
    send, receive = trio.open_memory_channel[Collection[Backend]](10)
    boom = ValueError("boom")
    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, check=lambda exc: exc is boom)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(resolver.run, send)
            await wait_all_tasks_blocked()
            resolver.fail(boom)
    with pytest.raises(ValueError, match="boom"):
        await resolver.run(send)
    assert taken(receive) == [(A,), (A,)]


async def test_finish_makes_every_run_return() -> None:
    """One resolver serves several pools, and `finish` ends them all, once or twice."""
    resolver = ManualResolver([A])
    send, receive = trio.open_memory_channel[Collection[Backend]](10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(resolver.run, send)
        nursery.start_soon(resolver.run, send)
        await wait_all_tasks_blocked()
        resolver.set([B])
        resolver.finish()
        resolver.finish()
    assert taken(receive) == [(A,), (A,), (B,), (B,)]


def test_an_ended_resolver_takes_no_more() -> None:
    """`set` after the end is an error in the test."""
    resolver = ManualResolver()
    resolver.finish()
    with pytest.raises(RuntimeError, match="has ended"):
        resolver.set([A])


@pytest.mark.parametrize("bad", [A, "a.test:1", [1], [None], 7])
def test_bad_backends(bad: object) -> None:
    """Anything but a collection of backends is refused, and nothing changes."""
    resolver = ManualResolver([A])
    with pytest.raises(TypeError):
        resolver.set(bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not 'host:port'"):
        resolver.set(["a.test"])
    assert resolver.backends == (A,)


def test_a_path_is_a_unix_socket() -> None:
    """A string that is a path is the backend behind that Unix socket."""
    resolver = ManualResolver(["/run/x.sock"])
    assert resolver.backends == (Backend("/run/x.sock"),)


def test_fail_takes_an_exception() -> None:
    """`fail` refuses what cannot be raised."""
    with pytest.raises(TypeError, match="exc must be an exception"):
        ManualResolver().fail("boom")  # type: ignore[arg-type]
