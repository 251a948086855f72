"""A hook that raises at its first call, at its second, and so on: nothing is ever lost."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio

from qorb_trio import Connector, PoolTerminatedError

from ..harness import OK, Bench, LedgerConnector, backends, fails, open_bench, policy_of, run

#: From the class itself, so that none can be forgotten.
HOOKS: list[Any] = [
    name for name, member in vars(Connector).items() if inspect.iscoroutinefunction(member)
]


class Fatal(BaseException):
    """A `BaseException` that is no `Exception`."""


FAILURES: list[Callable[[], BaseException]] = [
    lambda: OSError("failure"),
    lambda: ExceptionGroup("failures", [OSError("failure"), ValueError("another")]),
]
CRASHES: list[Callable[[], BaseException]] = [
    KeyboardInterrupt,
    Fatal,
    lambda: BaseExceptionGroup("crashes", [Fatal(), OSError("failure")]),
]


async def client(bench: Bench) -> None:
    """Two claims."""
    for _ in range(2):
        await bench.use(0.4, timeout=60)


async def life(connector: LedgerConnector, *, crashes: bool) -> None:
    """All that the hooks are for: dials, claims, checks, clean-ups, a backend that leaves."""
    if crashes:
        connector.ledger.hold_until = 0  # then claims are cut off
    policy = policy_of(max_slots=4, max_count=2, spares_wanted=3, health_interval=3)
    async with open_bench("ab", connector=connector, policy=policy) as bench:
        for _ in range(3):
            bench.nursery.start_soon(client, bench)
        await trio.sleep(1)
        bench.resolver.set(backends("b"))
        await trio.sleep(1)
        bench.resolver.set(backends("ab"))
        await trio.sleep(5)
        await bench.use(timeout=20)


def outcomes(hook: Any, make: Callable[[], BaseException]) -> list[BaseException | None]:
    """Return the outcome of each life in which the k-th call of `hook` raises, for each k."""
    found: list[BaseException | None] = []
    for k in itertools.count(1):
        connector = LedgerConnector()
        connector.script.next(hook, *[OK] * (k - 1), fails(make()))
        outcome: BaseException | None = None
        try:
            run(partial(life, crashes=not isinstance(make(), Exception)), connector, seed=k)
        except AssertionError:
            raise  # the ledger's, or this module's
        except BaseException as exc:
            outcome = exc
        if connector.script.is_waiting(hook):
            return found
        assert not connector.ledger.at_the_end()
        found.append(outcome)
    raise AssertionError("it never ends")


def leaves(exc: BaseException | None) -> set[type]:
    """The types of the exceptions in a group of groups."""
    if isinstance(exc, BaseExceptionGroup):
        return {leaf for one in exc.exceptions for leaf in leaves(one)}
    return {type(exc)}


def test_no_hook_is_forgotten() -> None:
    """The hooks are those of the contract."""
    assert HOOKS == ["connect", "is_valid", "on_acquire", "on_recycle", "disconnect"]


@pytest.mark.parametrize("make", FAILURES, ids=["Exception", "ExceptionGroup"])
@pytest.mark.parametrize("hook", HOOKS)
def test_sweep_a_hook_that_fails(hook: Any, make: Callable[[], BaseException]) -> None:
    """All clients are served although some call of a hook fails, for each of its calls."""
    found = outcomes(hook, make)
    assert len(found) >= 3
    assert not any(found)


@pytest.mark.parametrize("make", CRASHES, ids=["KeyboardInterrupt", "BaseException", "group"])
@pytest.mark.parametrize("hook", HOOKS)
def test_sweep_a_hook_that_crashes(hook: Any, make: Callable[[], BaseException]) -> None:
    """A fatal exception at any call of a hook comes out of the nursery."""
    found = outcomes(hook, make)
    assert len(found) >= 3
    for crash in found:
        # A claimant may hear that the pool ends before it hears of the crash.
        assert leaves(crash) - {PoolTerminatedError} == leaves(make())
