"""`say_why_late`: a step of a connect that takes too long gives the reason."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import MockClock

from qorb_trio.connectors._lateness import say_why_late


@pytest.mark.parametrize(("left", "when"), [(10, 9.8), (1, 0.95), (0.1, 0.075)])
async def test_the_reason_comes_shortly_before_the_deadline(
    autojump_clock: MockClock, left: float, when: float
) -> None:
    """With ten seconds left, the error comes after 9.8 s, before the caller's own time-out."""
    with trio.fail_after(left):
        with pytest.raises(TimeoutError, match="it hangs"), say_why_late("it hangs"):
            await trio.sleep_forever()
        assert trio.current_time() == pytest.approx(when)


@pytest.mark.parametrize("seconds", [10, math.inf])
async def test_a_step_that_ends_in_time(autojump_clock: MockClock, seconds: float) -> None:
    """Nothing happens if the step ends before its time is up, or if there is no deadline."""
    with trio.move_on_after(seconds) as scope, say_why_late("it hangs"):
        await trio.sleep(9)
    assert not scope.cancelled_caught


@pytest.mark.parametrize("deadline", [math.inf, 10, -math.inf])
async def test_a_cancelled_step(autojump_clock: MockClock, deadline: float) -> None:
    """A cancellation passes through, before the step as well as in the middle of it."""
    with trio.CancelScope() as scope, trio.CancelScope(deadline=deadline):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_later, scope)
            with say_why_late("it hangs"):
                await trio.sleep_forever()
    assert scope.cancelled_caught or deadline == -math.inf


async def _cancel_later(scope: trio.CancelScope) -> None:
    await trio.sleep(1)
    scope.cancel()
