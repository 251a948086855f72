"""`Pool.claim_nowait`, the labels of claims, and hints for mistakes in how a claim is made."""

from __future__ import annotations

import gc
import logging
import types
import warnings
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import (
    MockClock,
    assert_checkpoints,
    assert_no_checkpoints,
    wait_all_tasks_blocked,
)

from qorb_trio import (
    AllClaimsUsedError,
    Claim,
    Connector,
    Instrument,
    Pool,
    PoolTerminatedError,
    open_pool,
)
from qorb_trio.testing import (
    FakeConnection,
    FakeConnector,
    HookedFakeConnector,
    ManualResolver,
    RecordingInstrument,
)

from ..harness import backends, policy_of


@asynccontextmanager
async def pool_of(
    slots: int, connector: Connector[Any] | None = None, **options: Any
) -> AsyncIterator[Pool[FakeConnection]]:
    """A pool over one backend with that many spares."""
    fields = options.pop("fields", {})
    policy = policy_of(max_slots=slots, spares_wanted=slots, **fields)
    async with (
        trio.open_nursery() as nursery,
        open_pool(
            nursery,
            ManualResolver(backends("a")),
            connector or FakeConnector(),
            policy=policy,
            **options,
        ) as pool,
    ):
        await pool.wait_ready(slots)
        yield pool


def count_listeners(instrument: Instrument | None) -> tuple[Instrument, ...]:
    """The instruments of a pool, if there is one."""
    return () if instrument is None else (instrument,)


# ----------------------------------------------------------------------------- claim_nowait


@pytest.mark.parametrize("watched", [False, True], ids=["plain", "watched"])
async def test_a_spare_is_claimed_at_once(watched: bool, autojump_clock: MockClock) -> None:
    """`claim_nowait` returns a held `Claim` without a checkpoint; its block releases it."""
    recording = RecordingInstrument() if watched else None
    async with pool_of(1, instruments=count_listeners(recording)) as pool:
        with assert_no_checkpoints(), pool.claim_nowait() as conn:
            assert isinstance(conn, FakeConnection)
            assert pool.stats().backends["a"].claimed == 1
        claim = pool.claim_nowait()
        assert type(claim) is Claim
        assert claim.connection is conn
        assert claim.backend == conn.backend
        (holder,) = pool.holders()
        assert holder.backend == conn.backend
        claim.release()
        with pytest.raises(RuntimeError, match="released already"):
            claim.release()
        stats = pool.stats()
        assert (stats.claims, stats.backends["a"].unclaimed) == (2, 1)
    if recording is not None:
        names = [name for name in recording.names if name.startswith(("claim", "handle"))]
        assert names == ["claim_start", "handle_claimed", "claim_done", "handle_returned"] * 2


@pytest.mark.parametrize("watched", [False, True], ids=["plain", "watched"])
async def test_without_a_spare_it_would_block(watched: bool, autojump_clock: MockClock) -> None:
    """`trio.WouldBlock`, with nothing changed."""
    recording = RecordingInstrument() if watched else None
    async with pool_of(1, instruments=count_listeners(recording)) as pool, pool.claim():
        before = pool.stats()
        with assert_no_checkpoints(), pytest.raises(trio.WouldBlock):
            pool.claim_nowait()
        assert pool.stats() == before
        if recording is not None:
            (event,) = recording.of("claim_failed")
            assert isinstance(event.error, trio.WouldBlock)


async def test_an_instrument_that_hears_nothing_of_it(autojump_clock: MockClock) -> None:
    """The long way without anybody who listens ends in the same way."""
    async with pool_of(1, instruments=[Instrument()]) as pool:
        with pool.claim_nowait(), pytest.raises(trio.WouldBlock):
            pool.claim_nowait()
        assert pool.stats().claims == 1


async def test_nobody_is_passed(autojump_clock: MockClock) -> None:
    """While a claimant waits there is nothing to claim, not even what just came back."""
    async with pool_of(1) as pool, trio.open_nursery() as nursery:
        claim = await pool.acquire()

        async def wait() -> None:
            async with pool.claim():
                await trio.sleep(1)

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.WouldBlock):
            pool.claim_nowait()
        claim.release()
        with pytest.raises(trio.WouldBlock):
            pool.claim_nowait()
        await trio.sleep(2)
        with pool.claim_nowait():
            pass


async def test_a_connector_with_on_acquire(autojump_clock: MockClock) -> None:
    """``on_acquire`` has to be awaited: a RuntimeError that says what to use."""
    async with pool_of(1, HookedFakeConnector()) as pool:
        with pytest.raises(RuntimeError, match=r"async with pool\.claim"):
            pool.claim_nowait()
        assert pool.stats().backends["a"].unclaimed == 1


async def test_the_end_with_on_acquire(autojump_clock: MockClock) -> None:
    """After the end, a connector with ``on_acquire`` makes no difference."""
    async with pool_of(1, HookedFakeConnector()) as pool:
        await pool.terminate()
        with pytest.raises(PoolTerminatedError):
            pool.claim_nowait()


async def test_a_pool_that_has_ended(autojump_clock: MockClock) -> None:
    """After the end, and while the pool drains, `PoolTerminatedError`."""
    async with pool_of(2) as pool, trio.open_nursery() as nursery:
        with pool.claim_nowait():
            nursery.start_soon(pool.terminate)
            await wait_all_tasks_blocked()
            with pytest.raises(PoolTerminatedError):
                pool.claim_nowait()
        await pool.terminate()
        with pytest.raises(PoolTerminatedError):
            pool.claim_nowait()


async def test_a_broken_spare_is_not_claimed(autojump_clock: MockClock) -> None:
    """`claim_nowait` closes a broken spare, and takes the next one."""
    connector = FakeConnector()
    async with pool_of(2, connector) as pool:
        first, second = connector.open
        connector.break_connection(second)
        with pool.claim_nowait() as conn:
            assert conn is first


@pytest.mark.parametrize("by_hand", [False, True], ids=["block", "by hand"])
async def test_the_body_of_a_nowait_claim_fails(by_hand: bool, autojump_clock: MockClock) -> None:
    """An exception in the block closes the connection; one from before the claim does not."""
    connector = FakeConnector()
    async with pool_of(1, connector) as pool:
        try:
            raise OSError("before")
        except OSError:
            claim = pool.claim_nowait()
            claim.release()
        assert connector.disconnects == 0
        with pytest.raises(ValueError, match="body"):
            if by_hand:
                claim = pool.claim_nowait()
                try:
                    raise ValueError("body")
                finally:
                    claim.release()
            else:
                with pool.claim_nowait():
                    raise ValueError("body")
        await wait_all_tasks_blocked()
        assert connector.disconnects == 1


async def test_a_nowait_claim_is_lost(autojump_clock: MockClock) -> None:
    """Garbage collected unreleased, it gives its slot back and warns."""
    async with pool_of(1) as pool:
        with pytest.warns(ResourceWarning, match="was not released"):
            pool.claim_nowait()
            gc.collect()
        await wait_all_tasks_blocked()
        with pool.claim_nowait():
            pass


async def test_a_nowait_claim_cannot_be_entered_asynchronously(autojump_clock: MockClock) -> None:
    """``async with`` on a claim that is held already raises an error that says so."""
    async with pool_of(1) as pool:
        claim = pool.claim_nowait()
        with pytest.raises(RuntimeError, match="it is held"):
            async with claim:
                pass
        claim.release()


async def test_nowait_claims_have_replacements_dialled(autojump_clock: MockClock) -> None:
    """A claim leaves as many spares as are wanted."""
    async with trio.open_nursery() as nursery:
        policy = policy_of(max_slots=8, spares_wanted=2)
        async with open_pool(
            nursery, ManualResolver(backends("a")), FakeConnector(), policy=policy
        ) as pool:
            await pool.wait_ready(2)
            with pool.claim_nowait(), pool.claim_nowait():
                await wait_all_tasks_blocked()
                assert pool.stats().backends["a"].unclaimed == 2


# ----------------------------------------------------------------------------------- labels


async def test_a_label_is_shown_by_holders(autojump_clock: MockClock) -> None:
    """`Holder.task` is the label, `Holder.label` too; without one, the name of the task."""
    async with pool_of(1) as pool:
        async with pool.claim(label="GET /users/7"):
            (holder,) = pool.holders()
            assert (holder.task, holder.label) == ("GET /users/7", "GET /users/7")
        async with pool.claim():
            (holder,) = pool.holders()
            assert holder.label is None
            assert "test_a_label_is_shown_by_holders" in holder.task
        claim = await pool.acquire(label="by hand")
        assert pool.holders()[0].label == "by hand"
        claim.release()
        with pool.claim_nowait():
            assert pool.holders()[0].label is None


async def test_a_label_after_a_hand_over(autojump_clock: MockClock) -> None:
    """The label of a claim that had to wait is shown, and that of the last holder is not."""
    async with pool_of(1) as pool, trio.open_nursery() as nursery:
        first = await pool.acquire(label="first")
        labels: list[str | None] = []

        async def wait(label: str | None) -> None:
            async with pool.claim(label=label):
                labels.append(pool.holders()[0].label)

        nursery.start_soon(wait, "second")
        await wait_all_tasks_blocked()
        nursery.start_soon(wait, None)
        await wait_all_tasks_blocked()
        first.release()
        assert pool.holders()[0].label is None  # of the second, which has not run yet
        await wait_all_tasks_blocked()
        assert labels == ["second", None]


async def test_a_label_is_shown_in_errors(autojump_clock: MockClock) -> None:
    """The error of another claim names the holders by their labels, in printable form."""
    async with pool_of(2) as pool:
        async with pool.claim(label="GET /"):
            await trio.sleep(1)
            async with pool.claim(label="a\nb\x1b[8m"):
                with pytest.raises(AllClaimsUsedError) as caught:
                    await pool.acquire(timeout=0)
    assert "held longest by GET / for 1 s (a), a\\nb\\x1b[8m for 0 s (a)" in str(caught.value)


async def test_a_label_is_shown_in_the_leak_warning(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning of a claim that is held for long names it."""
    async with pool_of(1, fields={"leak_warning_after": 5}) as pool:
        async with pool.claim(label="GET /slow"):
            await trio.sleep(6)
    (record,) = [it for it in caplog.records if it.name == "qorb_trio.claim"]
    assert "task GET /slow has held a connection to a for 5 s" in record.getMessage()


async def test_a_label_is_shown_when_a_claim_is_cut_off(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning of a claim that the pool's end has cut off names it."""
    async with pool_of(1, fields={"drain_timeout": 1}) as pool:
        claim = await pool.acquire(label="GET /slow")
        await pool.terminate()
        claim.discard()
    warnings = [it.getMessage() for it in caplog.records if it.levelno == logging.WARNING]
    assert "pool pool: the claim of task GET /slow on backend a" in warnings[-1]


@pytest.mark.parametrize("wrong", [5, b"x", ["x"], object()])
async def test_wrong_labels(wrong: Any, autojump_clock: MockClock) -> None:
    """A label is a str; the error names the argument."""
    async with pool_of(1) as pool:
        with pytest.raises(TypeError, match="label must be a str"):
            pool.claim(label=wrong)


@pytest.mark.parametrize("options", [{"timeout": -1}, {"timeout": -1, "label": "x"}])
async def test_wrong_timeouts_with_options(
    options: dict[str, Any], autojump_clock: MockClock
) -> None:
    """A wrong timeout is refused at once, with other options or without."""
    async with pool_of(1) as pool:
        with pytest.raises(ValueError, match="timeout"):
            pool.claim(**options)
        with pytest.raises(ValueError, match="timeout"):
            await pool.acquire(**options)


# ------------------------------------------------------------------------------------ hints


async def test_j_a_claim_that_is_awaited(autojump_clock: MockClock) -> None:
    """``await pool.claim()`` says what to write."""
    async with pool_of(1) as pool:
        with pytest.raises(RuntimeError, match=r"async with pool\.claim\(\)"):
            await pool.claim()  # type: ignore[misc]


async def test_j_a_claim_that_is_entered_synchronously(autojump_clock: MockClock) -> None:
    """``with pool.claim()`` says what to write."""
    async with pool_of(1) as pool:
        with pytest.raises(RuntimeError, match=r"async with pool\.claim\(\)"), pool.claim():
            pass


async def test_j_an_acquire_that_is_entered(autojump_clock: MockClock) -> None:
    """``async with pool.acquire()`` and ``with pool.acquire()`` say what to write."""
    async with pool_of(1) as pool:
        acquire: Any = pool.acquire
        with pytest.raises(RuntimeError, match=r"async with pool\.claim\(\)"):
            async with acquire():
                pass
        with pytest.raises(RuntimeError, match=r"with await pool\.acquire\(\)"), acquire():
            pass
        assert pool.stats().claims == 0


async def test_an_acquire_is_a_coroutine(autojump_clock: MockClock) -> None:
    """`acquire` returns a coroutine, which is a checkpoint, and can be closed and thrown into."""
    async with pool_of(1) as pool, trio.open_nursery() as nursery:
        with assert_checkpoints():
            claim = await pool.acquire()
        waiting = pool.acquire()
        waiting.close()
        with pytest.raises(ZeroDivisionError):
            pool.acquire().throw(ZeroDivisionError("thrown"))
        with warnings.catch_warnings(), pytest.raises(ZeroDivisionError):
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 has it
            pool.acquire().throw(ZeroDivisionError, ZeroDivisionError("thrown"), None)
        with pytest.warns(RuntimeWarning, match=r"'Pool\.acquire' was never awaited"):
            pool.acquire()  # type: ignore[unused-coroutine]
        nursery.start_soon(pool.acquire)
        await wait_all_tasks_blocked()
        assert pool.stats().waiting == 1
        nursery.cancel_scope.cancel()
        claim.release()


@types.coroutine
def drive(coroutine: Any) -> Generator[Any, Any, Any]:
    """Run a coroutine by `send` alone."""
    value = None
    while True:
        try:
            trap = coroutine.send(value)
        except StopIteration as stop:
            return stop.value
        value = yield trap


async def test_an_acquire_that_is_driven_by_send(autojump_clock: MockClock) -> None:
    """A wrapper that continues coroutines by `send` can run `acquire`, as any other."""
    async with pool_of(1) as pool:
        claim = await drive(pool.acquire())
        assert pool.stats().claims == 1
        claim.release()


async def test_a_claim_that_is_released_in_its_block(autojump_clock: MockClock) -> None:
    """The end of a ``with`` block gives back nothing that the body has released."""
    async with pool_of(1) as pool:
        with pool.claim_nowait():
            pass
        claim = pool.claim_nowait()
        with claim:
            claim.release()
            with pool.claim_nowait():
                assert pool.stats().claims == 3


async def test_the_frames_of_a_task_that_acquires(autojump_clock: MockClock) -> None:
    """Trio sees where such a task waits, down to the queue."""
    async with pool_of(1) as pool, pool.claim(), trio.open_nursery() as nursery:
        tasks: list[trio.lowlevel.Task] = []

        async def wait() -> None:
            tasks.append(trio.lowlevel.current_task())
            await pool.acquire()

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        names = [frame.f_code.co_name for frame, _ in tasks[0].iter_await_frames()]
        assert names[0] == "wait"
        assert {"_enter_by_hand", "wait_task_rescheduled"} <= {*names}
        nursery.cancel_scope.cancel()


async def test_j_a_pool_that_is_not_entered(nursery: trio.Nursery) -> None:
    """The result of `open_pool` says that it must be entered, whatever is done with it."""
    manager: Any = open_pool(nursery, ManualResolver(), FakeConnector())
    hint = r"async with open_pool\(\.\.\.\) as pool"
    with pytest.raises(AttributeError, match=hint + r"`, then pool\.claim"):
        manager.claim()
    with pytest.raises(AttributeError, match="no attribute 'clam'"):
        manager.clam()
    with pytest.raises(RuntimeError, match=hint):
        await manager
    with pytest.raises(RuntimeError, match=hint), manager:
        pass
    assert not hasattr(manager, "no_such_attribute")
    async with manager as pool:
        assert pool.name == "pool"
