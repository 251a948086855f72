"""The errors of a claim: their classes, their causes and their attributes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

import qorb_trio
from qorb_trio import (
    AllClaimsUsedError,
    ClaimError,
    ClaimTimeoutError,
    NoBackendsError,
    NoBackendsOnlineError,
    PoolStats,
    PoolTerminatedError,
    QorbError,
    ResolveError,
)

from ..harness import HANG, LedgerConnector, backends, fails, open_bench, policy_of, slow


@pytest.mark.parametrize(
    ("error", "bases"),
    [
        (QorbError, {Exception}),
        (ClaimError, {QorbError}),
        (ClaimTimeoutError, {ClaimError, trio.TooSlowError}),
        (NoBackendsError, {ClaimTimeoutError}),
        (NoBackendsOnlineError, {ClaimTimeoutError}),
        (AllClaimsUsedError, {ClaimTimeoutError}),
        (PoolTerminatedError, {ClaimError}),
        (ResolveError, {QorbError}),
    ],
)
def test_the_tree(error: type[Exception], bases: set[type[Exception]]) -> None:
    """The classes are in the tree that the contract shows."""
    assert set(error.__bases__) == bases


def test_a_terminated_pool_is_not_too_slow() -> None:
    """`PoolTerminatedError` is not a timeout."""
    assert not issubclass(PoolTerminatedError, trio.TooSlowError)


@pytest.mark.parametrize("timeout", [0, 4])
@pytest.mark.parametrize("found", [None, ""])
async def test_no_backends(autojump_clock: MockClock, timeout: float, found: str | None) -> None:
    """Without a backend, whether not yet or no longer, a claim says so at its deadline."""
    async with open_bench(found, name="db") as bench:
        await bench.settle()
        before = trio.current_time()
        with pytest.raises(NoBackendsError, match="db") as caught:
            await bench.pool.acquire(timeout=timeout)
        assert type(caught.value) is NoBackendsError
        assert trio.current_time() == before + timeout
        assert caught.value.pool == "db"
        assert isinstance(caught.value.stats, PoolStats)
        assert caught.value.stats.backends == {}
        assert caught.value.__cause__ is None


async def test_the_last_backend_leaves_a_waiter(autojump_clock: MockClock) -> None:
    """The error tells how things are at the deadline, not when the claim began."""
    connector = LedgerConnector(slow(60))
    async with open_bench("a", connector=connector) as bench:

        async def leave() -> None:
            await trio.sleep(2)
            bench.resolver.set([])

        bench.nursery.start_soon(leave)
        with pytest.raises(NoBackendsError):
            await bench.use(timeout=4)


@pytest.mark.parametrize("timeout", [0, 4])
async def test_no_backends_online(autojump_clock: MockClock, timeout: float) -> None:
    """With backends that refuse, a claim says so, caused by the last error."""
    error = ConnectionRefusedError("nobody home")
    connector = LedgerConnector(fails(error))
    async with open_bench("ab", connector=connector) as bench:
        await bench.settle(1)
        before = trio.current_time()
        with pytest.raises(NoBackendsOnlineError) as caught:
            await bench.pool.acquire(timeout=timeout)
        assert type(caught.value) is NoBackendsOnlineError
        assert trio.current_time() == before + timeout
        assert caught.value.__cause__ is error
        assert set(caught.value.stats.backends) == {"a", "b"}
        assert not any(one.online for one in caught.value.stats.backends.values())


@pytest.mark.parametrize(("early", "late"), ["ab", "ba"])
async def test_the_cause_is_the_latest_error(
    autojump_clock: MockClock, early: str, late: str
) -> None:
    """Of all connect errors of all backends, the latest is the cause."""
    latest = ConnectionResetError("late")
    connector = LedgerConnector()
    connector.script.always("connect", fails(OSError("early")), backend=early)
    connector.script.always("connect", fails(latest, after=3.9), backend=late)
    policy = policy_of(min_connection_backoff=20, max_connection_backoff=20)
    async with open_bench("ab", connector=connector, policy=policy) as bench:
        with pytest.raises(NoBackendsOnlineError) as caught:
            await bench.use(timeout=5)
        assert caught.value.__cause__ is latest


async def test_the_cause_is_an_error_of_a_connect(autojump_clock: MockClock) -> None:
    """The error's cause is the last failed connect, not a later failure to disconnect."""
    refused = ConnectionRefusedError("nobody home")
    connector = LedgerConnector()
    policy = policy_of(max_slots=2, spares_wanted=0, min_connection_backoff=20)
    async with open_bench("a", connector=connector, policy=policy) as bench:
        claim = await bench.acquire()
        connector.script.always("connect", fails(refused))
        connector.script.always("disconnect", fails(OSError("gone"), after=0.5))
        bench.discard(claim)
        with pytest.raises(NoBackendsOnlineError) as caught:
            await bench.use(timeout=2)
        assert isinstance(caught.value.stats.backends["a"].last_error, OSError)
        assert caught.value.stats.backends["a"].last_error is not refused
        assert caught.value.__cause__ is refused


async def test_no_backends_online_without_a_cause(autojump_clock: MockClock) -> None:
    """While the first dials are still under way there is no cause to tell."""
    async with open_bench("a", connector=LedgerConnector(HANG)) as bench:
        with pytest.raises(NoBackendsOnlineError) as caught:
            await bench.use(timeout=4)
        assert caught.value.__cause__ is None


@pytest.mark.parametrize("timeout", [0, 4])
async def test_all_claims_used(autojump_clock: MockClock, timeout: float) -> None:
    """With all connections in use, a claim says so, and the statistics show it."""
    async with open_bench("ab", policy=policy_of(max_slots=2)) as bench:
        async with bench.claim(), bench.claim():
            before = trio.current_time()
            with pytest.raises(AllClaimsUsedError) as caught:
                await bench.pool.acquire(timeout=timeout)
            assert type(caught.value) is AllClaimsUsedError
            assert trio.current_time() == before + timeout
        stats = caught.value.stats
        assert sum(one.claimed for one in stats.backends.values()) == 2
        assert stats.claims == 2


async def test_on_acquire_failed(autojump_clock: MockClock) -> None:
    """The error's cause is the last failure of ``on_acquire`` if each connection failed it."""
    error = ValueError("wrong password")
    async with open_bench() as bench:
        await bench.pool.wait_ready()
        bench.script.always("on_acquire", fails(error))
        with pytest.raises(ClaimTimeoutError) as caught:
            await bench.use(timeout=4)
        assert type(caught.value) is ClaimTimeoutError
        assert caught.value.__cause__ is error


async def test_on_acquire_cut_off_by_the_timeout(autojump_clock: MockClock) -> None:
    """A claim whose timeout ends inside ``on_acquire`` is a `ClaimTimeoutError` too."""
    async with open_bench(policy=policy_of(health_check_timeout=50)) as bench:
        await bench.pool.wait_ready()
        bench.script.next("on_acquire", HANG)
        with pytest.raises(ClaimTimeoutError):
            await bench.use(timeout=4)


async def test_a_departed_claim_is_no_excuse(autojump_clock: MockClock) -> None:
    """A claim on a backend that has left does not hide that those that are left refuse."""
    error = ConnectionRefusedError("b")
    connector = LedgerConnector()
    connector.script.always("connect", fails(error), backend="b")
    async with open_bench("a", connector=connector) as bench:
        async with bench.claim():
            bench.resolver.set(backends("b"))
            await bench.settle()
            with pytest.raises(NoBackendsOnlineError) as caught:
                await bench.use(timeout=5)
        assert caught.value.__cause__ is error


async def test_departed_claims_may_use_up_the_cap(autojump_clock: MockClock) -> None:
    """Claims on removed backends count towards the cap, and so can make all claims used."""
    async with open_bench("a", policy=policy_of(max_slots=1)) as bench, bench.claim():
        bench.resolver.set(backends("b"))
        with pytest.raises(AllClaimsUsedError):
            await bench.use(timeout=5)


async def test_a_timeout_can_be_caught_as_trios(autojump_clock: MockClock) -> None:
    """Code that is written against `trio.fail_after` catches it."""
    async with open_bench(None) as bench:
        with pytest.raises(trio.TooSlowError):
            async with bench.pool.claim(timeout=1):
                raise AssertionError("must not be entered")


async def test_an_outer_timeout_is_its_own(autojump_clock: MockClock) -> None:
    """A `trio.fail_after` around a claim raises its own error, not the pool's."""
    async with open_bench(None) as bench:
        with pytest.raises(trio.TooSlowError) as caught:
            with trio.fail_after(1):
                await bench.pool.acquire(timeout=1.5)
        assert not isinstance(caught.value, QorbError)


async def test_errors_do_not_change_with_the_pool(autojump_clock: MockClock) -> None:
    """The statistics in an error are those of the moment at which it was raised."""
    async with open_bench(policy=policy_of(max_slots=1)) as bench:
        async with bench.claim():
            with pytest.raises(AllClaimsUsedError) as caught:
                await bench.use(timeout=1)
        await bench.settle()
        (then,) = caught.value.stats.backends.values()
        (now,) = bench.stats().backends.values()
        assert (then.claimed, now.claimed) == (1, 0)


def pickled(error: ClaimError) -> ClaimError:
    """The error as it arrives in another process."""
    other: ClaimError = pickle.loads(pickle.dumps(error))
    return other


@pytest.mark.parametrize("there_and_back", [copy.copy, copy.deepcopy, pickled])
async def test_errors_can_be_copied(
    autojump_clock: MockClock, there_and_back: Callable[[ClaimError], ClaimError]
) -> None:
    """An error keeps its class, its message and its pool through `copy` and `pickle`."""
    async with open_bench("a", connector=LedgerConnector(HANG), name="db") as bench:
        await bench.settle()
        with pytest.raises(NoBackendsOnlineError) as caught:
            await bench.pool.acquire(timeout=0)
        error = caught.value
        other = there_and_back(error)
        assert type(other) is NoBackendsOnlineError
        assert (str(other), other.pool, other.stats) == (str(error), "db", error.stats)


def test_public_names() -> None:
    """Each name of the contract can be imported, and its `__module__` is the public one."""
    names = [
        *["open_pool", "Pool", "Claim", "Policy", "SetConfig", "Backend", "Connector"],
        *["Resolver", "Instrument", "FixedResolver", "DnsResolver", "DnsResolverConfig"],
        *["TcpConnector", "UnixConnector", "TlsConnector", "PoolStats", "BackendStats"],
        *["QorbError", "ClaimError", "ClaimTimeoutError", "NoBackendsError"],
        *["NoBackendsOnlineError", "AllClaimsUsedError", "PoolTerminatedError", "ResolveError"],
    ]
    for name in names:
        assert getattr(qorb_trio, name).__module__ in {"qorb_trio", "qorb_trio.abc"}, name
    for name in ("Connector", "Resolver", "Instrument"):
        assert getattr(qorb_trio, name) is getattr(qorb_trio.abc, name)
