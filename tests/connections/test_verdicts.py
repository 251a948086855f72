"""Verdicts: the ends of claims that count as failures of the backend."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

import attrs
import pytest
import trio
from trio.testing import MockClock

from qorb_trio import ClaimTimeoutError, Connector, Policy
from qorb_trio.testing import FakeConnection, FakeConnector

from .ejecting import Scene, a_scene


class Judge(FakeConnector):
    """A connector that is asked, and answers or raises as it is told."""

    def __init__(self, answer: object = True) -> None:
        super().__init__()
        self.answer = answer
        self.asked: list[tuple[FakeConnection, BaseException]] = []

    def is_failure(self, conn: FakeConnection, exc: BaseException) -> bool:
        """Note the question."""
        assert conn.is_open
        self.asked.append((conn, exc))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[return-value]  # a test gives what is no bool


async def end_by(scene: Scene, exc: BaseException | None) -> None:
    """End a claim on the first backend by an exception."""
    claim = await scene.claim_on(scene.backends[0])
    if exc is None:
        claim.release()
    else:
        with pytest.raises(type(exc)), claim:
            raise exc


def a_cancelled() -> trio.Cancelled:
    """A cancellation, which only Trio can make."""

    async def main() -> trio.Cancelled:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as exc:
                return exc  # noqa: ASYNC103 - it is what is wanted
        raise AssertionError

    return trio.run(main)


CANCELLED = a_cancelled()

BAD = [
    ConnectionResetError(),
    trio.BrokenResourceError(),
    trio.TooSlowError(),
    ExceptionGroup("", [ValueError(), ConnectionRefusedError()]),
    BaseExceptionGroup("", [KeyboardInterrupt(), ExceptionGroup("", [trio.TooSlowError()])]),
]
NO_VERDICT = [
    ValueError(),
    OSError(),
    trio.EndOfChannel(),
    trio.ClosedResourceError(),
    KeyboardInterrupt(),
    ExceptionGroup("", [ValueError()]),
    CANCELLED,
    BaseExceptionGroup("", [ConnectionResetError(), CANCELLED]),
]


@pytest.mark.parametrize("exc", BAD, ids=repr)
async def test_failures_of_the_backend(autojump_clock: MockClock, exc: BaseException) -> None:
    """By default, errors of the connection and lateness are failures, in groups too."""
    async with a_scene() as scene:
        for n in range(1, 6):
            await end_by(scene, exc)
            assert scene.stats(scene.backends[0]).failed_claims == n
        assert scene.ejected == ["a"]


@pytest.mark.parametrize("exc", NO_VERDICT, ids=lambda it: re.sub(r" at 0x[0-9a-f]+", "", repr(it)))
async def test_failures_of_others(autojump_clock: MockClock, exc: BaseException) -> None:
    """Other exceptions and cancellations are no verdict: they do not even end a row."""
    async with a_scene() as scene:
        await scene.fail(scene.backends[0], 4)
        for _ in range(20):
            await end_by(scene, exc)
        assert scene.ejected == []
        assert scene.stats(scene.backends[0]).failed_claims == 4
        await scene.fail(scene.backends[0], 1)
        assert scene.ejected == ["a"]


async def test_the_error_of_another_pool_says_nothing(autojump_clock: MockClock) -> None:
    """A `ClaimError` that ends a body, though it is a `TooSlowError`, is no verdict."""
    async with a_scene() as scene, a_scene(1, spares=1) as other:
        held = await other.pool.acquire()
        for _ in range(6):
            with pytest.raises(ClaimTimeoutError):
                async with scene.pool.claim(), other.pool.claim(timeout=0):
                    raise AssertionError
        held.release()
        assert [one.failed_claims for one in scene.pool.stats().backends.values()] == [0] * 4


async def test_the_connector_decides(autojump_clock: MockClock) -> None:
    """`is_failure` is asked about each exception but cancellations, with the connection."""
    connector = Judge()
    async with a_scene(connector=connector) as scene:
        error = KeyError()
        await end_by(scene, error)
        ((connection, exc),) = connector.asked
        assert (connection.backend, exc) == (scene.backends[0], error)
        await end_by(scene, None)
        await end_by(scene, CANCELLED)
        await end_by(scene, BaseExceptionGroup("", [error, CANCELLED]))
        assert len(connector.asked) == 1
        assert scene.stats(scene.backends[0]).failed_claims == 1
        connector.answer = False
        await end_by(scene, ConnectionResetError())
        assert scene.stats(scene.backends[0]).failed_claims == 1


async def test_an_is_failure_that_raises(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception of `is_failure` is logged, is no verdict, and does not replace the body's."""
    async with a_scene(connector=Judge(RuntimeError("oops"))) as scene:
        for _ in range(6):
            await end_by(scene, ConnectionResetError())
        assert scene.ejected == []
        assert scene.stats(scene.backends[0]).failed_claims == 0
    texts = [it.getMessage() for it in caplog.records if it.levelno == logging.WARNING]
    assert any("is_failure failed: RuntimeError: oops" in text for text in texts)


async def test_an_interrupt_in_is_failure(autojump_clock: MockClock) -> None:
    """A `KeyboardInterrupt` in `is_failure` comes out, and the connection is not lost."""
    connector = Judge(KeyboardInterrupt())
    async with a_scene(connector=connector) as scene:
        claim = await scene.claim_on(scene.backends[0])
        with pytest.raises(KeyboardInterrupt), claim:
            raise ValueError
        await trio.sleep(1)
        assert scene.stats(scene.backends[0]).claimed == 0
        assert connector.disconnects == 1


# Reports.


async def test_a_report_overrides(autojump_clock: MockClock) -> None:
    """A report counts instead of the end: whatever the body raised, and whatever was asked."""
    connector = Judge()
    async with a_scene(connector=connector) as scene:
        bad = scene.backends[0]
        ends: list[tuple[BaseException | None, bool]] = [
            (None, True),
            (ConnectionResetError(), True),
            (ValueError(), True),
            (CANCELLED, True),
        ]
        for exc, failed in ends:
            claim = await scene.claim_on(bad)
            claim.report(failed=failed)
            if exc is None:
                claim.release()
            else:
                with pytest.raises(type(exc)), claim:
                    raise exc
        assert scene.stats(bad).failed_claims == 4
        claim = await scene.claim_on(bad)
        claim.report(failed=False)
        with pytest.raises(ConnectionResetError), claim:
            raise ConnectionResetError
        await scene.fail(bad, 4)
        assert (scene.ejected, connector.asked) == ([], [])
        claim = await scene.claim_on(bad)
        claim.report(failed=False)
        claim.report(failed=True)
        claim.discard()
        assert scene.ejected == ["a"]
        assert scene.stats(bad).failed_claims == 9


async def test_a_report_is_for_one_claim(autojump_clock: MockClock) -> None:
    """The next claim on the same connection is judged by its own end."""
    async with a_scene(1, spares=1) as scene:
        for _ in range(3):
            claim = await scene.pool.acquire()
            claim.report(failed=True)
            claim.release()
            async with scene.pool.claim():
                pass
        assert scene.stats(scene.backends[0]).failed_claims == 3


async def test_discard_says_nothing(autojump_clock: MockClock) -> None:
    """A claim that is discarded is no verdict."""
    async with a_scene() as scene:
        await scene.fail(scene.backends[0], 4)
        for _ in range(10):
            (await scene.claim_on(scene.backends[0])).discard()
        assert scene.ejected == []
        await scene.fail(scene.backends[0], 1)
        assert scene.ejected == ["a"]


async def test_only_a_held_claim_can_be_reported(autojump_clock: MockClock) -> None:
    """`report` raises, and changes nothing, unless the claim is held, and in the pool's thread."""
    async with a_scene() as scene:
        claim = scene.pool.claim()
        with pytest.raises(RuntimeError, match="has not been granted"):
            claim.report(failed=True)
        async with claim:
            with pytest.raises(TypeError, match="failed must be a bool, not 1"):
                claim.report(failed=1)  # type: ignore[arg-type]
            with pytest.raises(TypeError):
                claim.report(True)  # type: ignore[call-arg]
            with pytest.raises(RuntimeError, match="to another thread"):
                await trio.to_thread.run_sync(report_failure(claim.report))
        with pytest.raises(RuntimeError, match="has been released"):
            claim.report(failed=True)
        assert [one.failed_claims for one in scene.pool.stats().backends.values()] == [0] * 4


def report_failure(report: Callable[..., None]) -> Callable[[], None]:
    """Return a function that reports a failure."""
    return lambda: report(failed=True)


async def test_a_report_after_the_pools_end_changes_nothing(autojump_clock: MockClock) -> None:
    """A claim that the pool has cut off can be reported, to no effect."""
    async with a_scene(policy=lambda it: attrs.evolve(it, drain_timeout=0)) as scene:
        claim = await scene.pool.acquire()
        await scene.pool.terminate()
        claim.report(failed=True)
        claim.release()
        assert not scene.pool._parts.dispatcher.returns._verdicts.reports


# Ejection switched off.


def without(policy: Policy) -> Policy:
    """The policy without ejection."""
    return attrs.evolve(policy, ejection=None)


async def test_without_ejection_failures_are_counted_only(autojump_clock: MockClock) -> None:
    """With `ejection=None` nothing is ejected, but failed claims are still counted."""
    async with a_scene(policy=without) as scene:
        bad = scene.backends[0]
        for _ in range(30):
            await end_by(scene, ConnectionResetError())
            await end_by(scene, ValueError())
        await scene.fail(bad, 30)
        assert scene.ejected == []
        assert scene.stats(bad).failed_claims == 60
        assert scene.stats(bad).ejected_until is None


async def test_half_of_the_claims_within_half_a_minute(autojump_clock: MockClock) -> None:
    """Every other claim fails: ejected at the 20th verdict, not before."""
    async with a_scene() as scene:
        bad = scene.backends[0]
        for _ in range(9):
            await scene.fail(bad, 1)
            await scene.succeed(bad)
        await scene.fail(bad, 1)
        assert scene.ejected == []
        await scene.succeed(bad)
        assert scene.ejected == ["a"]


def test_the_default_is_documented() -> None:
    """The docstring of `Connector.is_failure` lists the default failures."""
    text = Connector.is_failure.__doc__ or ""
    assert all(name in text for name in ("ConnectionError", "BrokenResourceError", "TooSlowError"))
