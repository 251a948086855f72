"""The wrong thread and the wrong `trio.run`: field faults, C.

Every method of `Pool` and `Claim` that changes anything is called from a thread that Trio
started, and in another `trio.run` that is alive at the same time. Each raises a `RuntimeError`
that says what to do, and nothing has changed.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from qorb_trio import Claim, FixedResolver, Instrument, Policy, Pool, open_pool
from qorb_trio.testing import FakeConnection, FakeConnector

MATCH = r"belongs to another trio\.run, or to another thread.*trio\.from_thread\.run_sync"

#: An instrument that is there.
THERE = Instrument()

Held: TypeAlias = Claim[FakeConnection]

#: The arguments of those methods that need some.
ARGUMENTS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "Pool.add_instrument": ((Instrument(),), {}),
    "Pool.remove_instrument": ((THERE,), {}),
    "Pool.reconfigure": ((Policy(),), {}),
    "Claim.report": ((), {"failed": True}),
    "Claim.__exit__": ((None, None, None), {}),
}

#: These change nothing, and are not refused: they are for anybody who looks.
READ_ONLY = {
    "Pool.name",
    "Pool.policy",
    "Pool.is_closed",
    "Pool.is_suspended",
    "Claim.backend",
    "Claim.connection",
}

#: These change nothing either. What they return does, and is refused when it is used.
LAZY = {"Pool.claim"}

#: Refused at once for another reason, in any thread, or only reached from a block of the run.
HINTS = {"Claim.__await__", "Claim.__enter__", "Claim.__aexit__"}


def methods_of(cls: type) -> set[str]:
    """The public members of a class, and those that Python itself calls."""
    special = {"__aenter__", "__aexit__", "__enter__", "__exit__", "__await__"}
    return {
        f"{cls.__name__}.{name}"
        for name, member in vars(cls).items()
        if (callable(member) or isinstance(member, property))
        and (not name.startswith("_") or name in special)
    }


ALL = methods_of(Pool) | methods_of(Claim)
REFUSED = sorted(ALL - READ_ONLY - LAZY - HINTS)


def test_all_methods_are_walked() -> None:
    """The methods are found by introspection, and the exceptions above are methods."""
    assert READ_ONLY | LAZY | HINTS | set(ARGUMENTS) <= ALL
    assert {"Pool.acquire", "Pool.suspend", "Pool.wait_idle", "Claim.release"} <= set(REFUSED)
    assert {"Claim.__aenter__", "Claim.__exit__", "Pool.claim_nowait"} <= set(REFUSED)


def call(name: str, pool: Pool[FakeConnection], claim: Held) -> Any:
    """Call a method of a pool, or of a claim that is held; one is made for ``__aenter__``."""
    args, keywords = ARGUMENTS.get(name, ((), {}))
    kind, _, method = name.partition(".")
    target: Any = pool if kind == "Pool" else claim
    if name == "Claim.__aenter__":
        target = pool.claim()
    return getattr(target, method)(*args, **keywords)


async def in_a_thread(name: str, pool: Pool[FakeConnection], claim: Held) -> None:
    """Call it in a thread that Trio started; a coroutine is begun there too."""

    def work() -> None:
        result = call(name, pool, claim)
        if inspect.isawaitable(result):
            result.send(None)  # type: ignore[attr-defined]

    await trio.to_thread.run_sync(work)


async def in_another_run(name: str, pool: Pool[FakeConnection], claim: Held) -> None:
    """Call it, and await it, in a `trio.run` of another thread."""

    async def work() -> None:
        result = call(name, pool, claim)
        if inspect.isawaitable(result):
            await result

    await trio.to_thread.run_sync(trio.run, work)


WAYS = [in_a_thread, in_another_run]


@asynccontextmanager
async def a_pool(*, waiting: bool) -> AsyncIterator[tuple[Pool[FakeConnection], Held]]:
    """A pool with a claim that is held, and perhaps with a claimant that waits.

    It can be left afterwards, and all is as if nothing had been tried.
    """
    connector = FakeConnector()
    slots = 1 if waiting else 2
    policy = Policy(max_slots=slots, spares_wanted=slots)
    served: list[FakeConnection] = []

    async def wait(pool: Pool[FakeConnection]) -> None:
        async with pool.claim(timeout=5) as conn:
            served.append(conn)

    async with trio.open_nursery() as nursery:
        async with open_pool(
            nursery,
            FixedResolver([("a.test", 1)]),
            connector,
            policy=policy,
            instruments=[THERE],
        ) as pool:
            await pool.wait_ready(slots)
            claim = await pool.acquire()
            async with trio.open_nursery() as clients:
                if waiting:
                    clients.start_soon(wait, pool)
                    await wait_all_tasks_blocked()
                before = pool.stats(), pool.policy, pool.holders()[0].slot_id
                yield pool, claim
                assert (pool.stats(), pool.policy, pool.holders()[0].slot_id) == before
                assert not pool.is_suspended
                claim.release()
            assert len(served) == waiting
            pool.remove_instrument(THERE)  # it is still there
            async with pool.claim() as conn:
                assert conn.is_open
        connector.assert_all_closed()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", REFUSED)
async def test_c_every_method_refuses_the_wrong_run(
    name: str, way: Callable[[str, Pool[FakeConnection], Held], Awaitable[None]]
) -> None:
    """Field faults C: every public method likewise; a RuntimeError, with nothing changed."""
    async with a_pool(waiting=False) as (pool, claim):
        with pytest.raises(RuntimeError, match=MATCH):
            await way(name, pool, claim)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", sorted(READ_ONLY))
async def test_c_what_only_looks_is_allowed(
    name: str, way: Callable[[str, Pool[FakeConnection], Held], Awaitable[None]]
) -> None:
    """Attributes may be read in a thread, because Trio is not asked for its time."""
    kind, _, attribute = name.partition(".")
    async with a_pool(waiting=False) as (pool, claim):
        target: Any = pool if kind == "Pool" else claim
        await trio.to_thread.run_sync(getattr, target, attribute)


async def test_c_the_statistics_of_a_pool_that_has_ended_may_be_taken_anywhere() -> None:
    """The last snapshot of a pool needs neither its run nor its thread."""
    async with a_pool(waiting=False) as (pool, _):
        pass
    stats = pool.stats()
    assert await trio.to_thread.run_sync(pool.stats) == stats


async def test_c_discard_in_a_thread() -> None:
    """Field faults C: ``to_thread.run_sync(claim.discard)`` is refused, and the pool is left."""
    async with a_pool(waiting=False) as (_, claim):
        with pytest.raises(RuntimeError, match=MATCH):
            await trio.to_thread.run_sync(claim.discard)


async def test_c_release_in_a_thread_while_somebody_waits() -> None:
    """Field faults C: the waiter is not taken out of the queue; it is served by the release."""
    async with a_pool(waiting=True) as (pool, claim):
        with pytest.raises(RuntimeError, match=MATCH):
            await trio.to_thread.run_sync(claim.release)
        assert pool.stats().waiting == 1


async def test_c_release_in_a_thread_while_nobody_waits() -> None:
    """Field faults C: it is not accepted silently either."""
    async with a_pool(waiting=False) as (pool, claim):
        with pytest.raises(RuntimeError, match=MATCH):
            await trio.to_thread.run_sync(claim.release)
        assert pool.stats().backends["a.test:1"].claimed == 1


@pytest.mark.parametrize("by", ["claim", "acquire", "claim_nowait"])
async def test_c_a_claim_in_another_run(by: str) -> None:
    """Field faults C: a claim in another live `trio.run` is refused at once, busy or not."""

    async def work(pool: Pool[FakeConnection]) -> None:
        if by == "claim":
            async with pool.claim():
                pass
        elif by == "acquire":
            await pool.acquire()
        else:
            pool.claim_nowait()

    for waiting in (False, True):
        async with a_pool(waiting=waiting) as (pool, _):
            with pytest.raises(RuntimeError, match=MATCH):
                await trio.to_thread.run_sync(trio.run, work, pool)


async def test_c_the_way_that_the_error_names() -> None:
    """``trio.from_thread.run_sync(claim.release)`` in a thread of Trio's works."""
    async with trio.open_nursery() as nursery:
        async with open_pool(nursery, FixedResolver([("a.test", 1)]), FakeConnector()) as pool:
            claim = await pool.acquire()
            await trio.to_thread.run_sync(trio.from_thread.run_sync, claim.release)
            assert not pool.holders()
