"""The fake connector: its switches work, and its ledger is right."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from qorb_trio import Backend, Connector
from qorb_trio.testing import FakeConnection, FakeConnector, HookedFakeConnector

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

A = Backend(("a.test", 1), name="a")
B = Backend(("b.test", 1), name="b")


async def test_a_connection_has_a_page_in_the_ledger(autojump_clock: MockClock) -> None:
    """Opening and closing are recorded with their times."""
    fake = FakeConnector()
    await trio.sleep(1)
    began = trio.current_time()
    conn = await fake.connect(A)
    assert (conn.number, conn.backend, conn.opened) == (1, A, began)
    assert fake.open == fake.connections == [conn]
    assert (conn.is_open, conn.closing, conn.closed) == (True, None, None)
    await trio.sleep(2)
    await fake.disconnect(conn)
    assert (conn.is_open, conn.closing, conn.closed) == (False, began + 2, began + 2)
    assert (conn.close_count, conn.forced) == (1, False)
    assert (fake.connects, fake.disconnects, fake.open) == (1, 1, [])
    assert fake.connections == [conn]
    assert conn.history == [(began, "connect"), (began + 2, "disconnect")]


async def test_connections_are_numbered_and_listed_by_backend() -> None:
    """Each connection has its own number, and `to` finds those of one backend."""
    fake = FakeConnector()
    first, second, third = [await fake.connect(backend) for backend in (A, B, A)]
    assert [conn.number for conn in fake.connections] == [1, 2, 3]
    assert fake.to("a") == fake.to(A) == [first, third]
    assert fake.to(B) == [second]
    assert fake.to("c") == []


async def test_repr_shows_number_backend_and_state(autojump_clock: MockClock) -> None:
    """A connection in a failing test's output can be told from the others."""
    fake = FakeConnector(disconnect_delay=1)
    conn = await fake.connect(A)
    assert repr(conn) == "<FakeConnection 1 to a, open>"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fake.disconnect, conn)
        await wait_all_tasks_blocked()
        assert repr(conn) == "<FakeConnection 1 to a, closing>"
    assert repr(conn) == "<FakeConnection 1 to a, closed>"


def test_a_plain_fake_overrides_no_optional_hook() -> None:
    """A pool's fast path for hooks that are not overridden is open to the plain fake."""
    for hook in ("is_valid", "on_acquire", "on_recycle", "should_recycle"):
        assert getattr(FakeConnector, hook) is getattr(Connector, hook)
    for hook in ("is_valid", "on_acquire", "on_recycle"):
        assert getattr(HookedFakeConnector, hook) is not getattr(Connector, hook)


async def test_connect_takes_the_delay(autojump_clock: MockClock) -> None:
    """`connect_delay` holds for every backend, and may be changed at run time."""
    fake = FakeConnector(connect_delay=3)
    start = trio.current_time()
    await fake.connect(A)
    assert trio.current_time() == start + 3
    fake.connect_delay = 5
    assert fake.connect_delay == 5
    await fake.connect(B)
    assert trio.current_time() == start + 8


async def test_slow_for_one_backend_leaves_the_others(autojump_clock: MockClock) -> None:
    """A delay for one backend is that backend's alone."""
    fake = FakeConnector()
    fake.slow("a", 4)
    start = trio.current_time()
    await fake.connect(B)
    assert trio.current_time() == start
    await fake.connect(A)
    assert trio.current_time() == start + 4


async def test_the_last_word_wins() -> None:
    """A word for all overrides those for one, and a later word for one that for all."""
    fake = FakeConnector()
    fake.fail("a")
    fake.heal()
    await fake.connect(A)
    fake.fail()
    fake.heal(A)
    await fake.connect(A)
    with pytest.raises(ConnectionRefusedError, match="told to fail"):
        await fake.connect(B)


@pytest.mark.parametrize("kind", [OSError, OSError("my own")])
async def test_fail_raises_what_was_given(kind: type[OSError] | OSError) -> None:
    """`fail` takes an exception, raised as it is, or a class of exceptions."""
    fake = FakeConnector()
    fake.fail("a", kind)
    for _ in range(3):
        with pytest.raises(OSError) as caught:  # noqa: PT011 - compared below
            await fake.connect(A)
        assert caught.value is kind or type(caught.value) is kind
    assert fake.calls["connect"] == 3
    assert fake.connects == fake.connecting == 0


async def test_a_stalled_connect_goes_on_when_healed() -> None:
    """`stall` holds a connect, and `heal` of that backend lets it go on."""
    fake = FakeConnector()
    fake.stall("a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fake.connect, A)
        await wait_all_tasks_blocked()
        fake.heal("b")
        await wait_all_tasks_blocked()
        assert (fake.connecting, fake.connects) == (1, 0)
        fake.heal("a")
    assert (fake.connecting, fake.connects) == (0, 1)


async def test_a_stalled_connect_can_be_failed() -> None:
    """`fail` reaches a connect that is stalled already."""
    fake = FakeConnector()
    fake.stall()
    with pytest.RaisesGroup(ConnectionResetError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fake.connect, A)
            await wait_all_tasks_blocked()
            fake.fail(A, ConnectionResetError)


async def test_a_cancelled_connect_leaves_nothing(autojump_clock: MockClock) -> None:
    """Cancelling a stalled connect leaves no connection and no count behind."""
    fake = FakeConnector()
    fake.stall()
    with trio.move_on_after(1) as scope:
        await fake.connect(A)
    assert scope.cancelled_caught
    assert (fake.connecting, fake.connects, fake.open) == (0, 0, [])
    fake.assert_all_closed()


async def test_peak_counts_what_opens_is_open_or_closes(autojump_clock: MockClock) -> None:
    """`peak` sees connections from the start of connect to the end of disconnect."""
    fake = FakeConnector(disconnect_delay=2)
    conn = await fake.connect(A)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fake.disconnect, conn)
        await wait_all_tasks_blocked()
        fake.stall("b")
        nursery.start_soon(fake.connect, B)
        await wait_all_tasks_blocked()
        assert fake.peak == 2
        nursery.cancel_scope.cancel()
    await fake.connect(A)
    assert fake.peak == 2


async def test_a_second_close_is_loud_and_on_record() -> None:
    """Closing twice raises, and is remembered when the error is swallowed."""
    fake = FakeConnector()
    conn = await fake.connect(A)
    await fake.disconnect(conn)
    fake.assert_all_closed()
    with pytest.raises(RuntimeError, match="closed 2 times"):
        await fake.disconnect(conn)
    assert conn.close_count == 2
    assert fake.disconnects == 1
    with pytest.raises(AssertionError, match="closed 2 times"):
        fake.assert_all_closed()


async def test_assert_all_closed_names_what_is_open() -> None:
    """A connection that was not closed, or a connect under way, is named."""
    fake = FakeConnector()
    await fake.connect(A)
    fake.stall()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fake.connect, B)
        await wait_all_tasks_blocked()
        with pytest.raises(AssertionError, match=r"1 to a, open> was not closed; 1 connects"):
            fake.assert_all_closed()
        nursery.cancel_scope.cancel()


async def test_a_disconnect_that_fails_or_is_cut_short_has_closed(
    autojump_clock: MockClock,
) -> None:
    """A disconnect that fails or is cancelled closes the connection; `forced` marks the latter."""
    fake = FakeConnector()
    failing, stalled = await fake.connect(A), await fake.connect(B)
    fake.fail("a", on="disconnect")
    with pytest.raises(ConnectionError, match="disconnect was told to fail"):
        await fake.disconnect(failing)
    fake.stall("b", on="disconnect")
    with trio.move_on_after(1):
        await fake.disconnect(stalled)
    assert (failing.forced, stalled.forced) == (False, True)
    fake.assert_all_closed()


async def test_broken_connections() -> None:
    """`break_connection` breaks one; `crash` breaks a backend's and refuses new ones."""
    fake = FakeConnector()
    first, second, other = [await fake.connect(backend) for backend in (A, A, B)]
    assert not fake.is_broken(first)
    fake.break_connection(first)
    assert [fake.is_broken(conn) for conn in (first, second, other)] == [True, False, False]
    fake.crash("a")
    assert [fake.is_broken(conn) for conn in (first, second, other)] == [True, True, False]
    with pytest.raises(ConnectionRefusedError):
        await fake.connect(A)
    fake.heal("a")
    assert not fake.is_broken(await fake.connect(A))
    assert fake.is_broken(first)


async def test_one_user_at_a_time() -> None:
    """`used_by` refuses a second user, and one that comes after the close."""
    fake = FakeConnector()
    conn = await fake.connect(A)
    with conn.used_by("alice"):
        assert str(conn.holder) == "alice"
        with pytest.raises(RuntimeError, match="used by 'alice', and now by 'bob' too"):
            conn.used_by("bob").__enter__()
    assert conn.holder is None
    assert conn.history[-1][1] == "used by alice"
    await fake.disconnect(conn)
    with pytest.raises(RuntimeError, match="after it was closed"):
        conn.used_by("bob").__enter__()


async def test_closing_under_a_user_is_a_mistake() -> None:
    """A connection that is closed while in use is put on record."""
    fake = FakeConnector()
    conn = await fake.connect(A)
    with conn.used_by("alice"):
        await fake.disconnect(conn)
    with pytest.raises(AssertionError, match="was closed while 'alice' used it"):
        fake.assert_all_closed()


async def test_hooks_do_nothing_at_first() -> None:
    """A hooked fake is healthy until it is told otherwise, and counts the calls."""
    fake = HookedFakeConnector()
    conn = await fake.connect(A)
    assert await fake.is_valid(conn)
    await fake.on_acquire(conn)
    conn.dirty, conn.valid = True, False
    await fake.on_recycle(conn)
    assert (conn.dirty, await fake.is_valid(conn)) == (False, False)
    assert fake.calls == {"connect": 1, "is_valid": 2, "on_acquire": 1, "on_recycle": 1}
    assert [event for _, event in conn.history] == [
        "connect",
        "is_valid",
        "on_acquire",
        "on_recycle",
        "is_valid",
    ]


@pytest.mark.parametrize("hook", ["is_valid", "on_acquire", "on_recycle"])
async def test_hooks_fail_stall_and_are_slow(hook: str, autojump_clock: MockClock) -> None:
    """Each optional hook obeys the switches, and heals by itself or with the rest."""
    fake = HookedFakeConnector()
    conn = await fake.connect(A)
    call: Callable[[FakeConnection], object] = getattr(fake, hook)
    on: object = hook

    async def took() -> float:
        start = trio.current_time()
        with trio.move_on_after(100):
            await call(conn)  # type: ignore[misc]
        return trio.current_time() - start

    fake.slow("a", 5, on=on)  # type: ignore[arg-type]
    assert await took() == 5
    fake.stall(on=on)  # type: ignore[arg-type]
    assert await took() == 100
    fake.heal(on=on)  # type: ignore[arg-type]
    assert await took() == 0
    fake.fail(A, on=on)  # type: ignore[arg-type]
    with pytest.raises(ConnectionError, match=f"{hook} was told to fail"):
        await took()
    fake.heal()
    assert await took() == 0


async def test_a_subclass_overrides_one_hook() -> None:
    """A subclass may override one hook by `perform`, and has the switches for it alone."""

    class Recycling(FakeConnector):
        async def on_recycle(self, conn: FakeConnection) -> None:
            await self.perform("on_recycle", conn)

    fake = Recycling()
    fake.fail(on="on_recycle")
    with pytest.raises(ConnectionError):
        await fake.on_recycle(await fake.connect(A))
    with pytest.raises(ValueError, match="Recycling does not override is_valid"):
        fake.fail(on="is_valid")


def test_bad_arguments() -> None:
    """Wrong arguments are refused, naming what is wrong."""
    fake = FakeConnector()
    with pytest.raises(ValueError, match="seconds"):
        FakeConnector(connect_delay=-1)
    with pytest.raises(ValueError, match="seconds"):
        FakeConnector(disconnect_delay=math.nan)
    with pytest.raises(ValueError, match="on must be one of connect, "):
        fake.stall(on="reconnect")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="use HookedFakeConnector"):
        fake.stall(on="on_acquire")
    with pytest.raises(TypeError, match="exc must be an exception"):
        fake.fail("a", "boom")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="exc must be an exception"):
        fake.fail("a", int)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="backend"):
        fake.fail(7)  # type: ignore[arg-type]
