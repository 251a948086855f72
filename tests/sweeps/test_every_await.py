"""Every public await, cancelled at its k-th step for all k: nothing is lost, nothing is left."""

from __future__ import annotations

import gc
import importlib
import inspect
import os
import warnings
from pathlib import Path
from types import CodeType
from typing import Any

import attrs
import pytest
import trio

from qorb_trio import Claim, Connector, Pool
from qorb_trio._claims.wait_queue import Waiter
from qorb_trio.http import HttpConnector, PoolTransport

from ..harness import Sweep, sweep
from .awaits import Await, name_of, public_awaits
from .registry import SCENARIOS, Scenario

for _file in sorted(Path(__file__).parent.glob("of_*.py")):
    importlib.import_module(f".{_file.stem}", __package__)

#: These have no step of their own at which they could be cancelled.
NEVER_WAIT: list[Await] = [
    Claim.__aexit__,
    Connector.is_valid,
    Connector.on_acquire,
    HttpConnector.on_recycle,
    PoolTransport.aclose,
]

PARAMS = [
    pytest.param(
        scenario,
        id=f"{name_of(scenario.of[0])}{' etc.' * (len(scenario.of) > 1)}: {scenario.name}",
        marks=[pytest.mark.real] * scenario.real,
    )
    for scenario in SCENARIOS
]


def code_of(function: Await) -> CodeType:
    """Return the code object of a function, without its wrappers."""
    code = inspect.unwrap(function).__code__
    assert isinstance(code, CodeType)
    return code


@pytest.mark.parametrize("scenario", PARAMS)
def test_sweep(scenario: Scenario) -> None:
    """An await that is cancelled at any of its steps loses nothing, and leaves nothing open."""
    stopped_in: set[CodeType] = set()
    fired = sweep(
        scenario.run, seeds=scenario.seeds, virtual=not scenario.real, stopped_in=stopped_in
    )
    assert fired > 1
    assert not {name_of(one) for one in scenario.by if code_of(one) not in stopped_in}
    assert not {name_of(one) for one in NEVER_WAIT if code_of(one) in stopped_in}


def test_no_await_is_forgotten() -> None:
    """Each public await has a sweep, or has no step to be cancelled at."""
    swept = {name_of(one) for scenario in SCENARIOS for one in scenario.of}
    assert swept | {name_of(one) for one in NEVER_WAIT} == set(public_awaits())


def test_what_is_public() -> None:
    """The awaits are found wherever they are: in functions, in classes, in what is returned."""
    awaits = public_awaits()
    assert {"Pool.acquire", "PoolManager.__aexit__", "serve", "DnsServer.__aenter__"} <= {*awaits}
    assert len(awaits) > 30


# ------------------------------------------------------------------- a sweep can fail


def scenario_named(name: str, of: Await) -> Scenario:
    """One of them."""
    return next(it for it in SCENARIOS if it.name == name and of in it.of)


def test_a_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that keeps those in line who have been cancelled does not pass."""

    def stay(self: Any, _: object) -> trio.lowlevel.Abort:
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED

    monkeypatch.setattr(Waiter, "abort", stay)
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - a group, or the ledger's
        test_sweep(scenario_named("none left, nothing else", Claim.__aenter__))
    assert "in the sweep: k=1, when=YIELDED, seed=0" in caught.value.__notes__
    del caught
    with warnings.catch_warnings():  # such a pool may lose claims too
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def test_what_is_left_open_is_found() -> None:
    """A run that leaves a descriptor open does not pass."""
    pipes: list[int] = []

    async def scenario(one: Sweep) -> None:
        pipes.extend(os.pipe())
        await one.target(trio.lowlevel.checkpoint)

    try:
        with pytest.raises(AssertionError, match="left open"):
            sweep(scenario)
    finally:
        for descriptor in pipes:
            os.close(descriptor)


def test_a_strike_that_fails_is_found() -> None:
    """An exception of the strike comes out, although Trio would only log it."""

    async def scenario(one: Sweep) -> None:
        one.strike = lambda: pipes[0]
        await one.target(trio.lowlevel.checkpoint)

    pipes: list[int] = []
    with pytest.raises(IndexError):
        sweep(scenario)


def test_an_await_that_was_not_reached_is_found() -> None:
    """A scenario whose target never waits in the await that it sweeps does not pass."""
    scenario = scenario_named("none left, nothing else", Claim.__aenter__)
    with pytest.raises(AssertionError, match=r"Pool\.wait_ready"):
        test_sweep(attrs.evolve(scenario, by=(Pool.wait_ready,)))
