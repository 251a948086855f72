"""Sweeps of the hooks, and of `Resolver.run`: the pool's own tasks are struck at each step.

The strikes are the events that end such a call: the pool ends, the backend leaves, or the call
has taken too long. ``on_acquire`` runs in the task of a claimant, which may also be cancelled.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Literal

import attrs
import trio

from qorb_trio import Backend, ClaimError, Connector, Resolver
from qorb_trio._pool.open_pool import PoolManager

from ..harness import Do, Hook, LedgerConnector, ManualSets, Sweep, policy_of
from .registry import sweeps
from .scene import PATIENCE, POLICY, Scene, a_scene

HOOKS: dict[Hook, Any] = {
    "connect": Connector.connect,
    "is_valid": Connector.is_valid,
    "on_acquire": Connector.on_acquire,
    "on_recycle": Connector.on_recycle,
    "disconnect": Connector.disconnect,
}

#: Each of the timeouts is as long as `Scene.be_late` is late.
HURRIED = attrs.evolve(
    POLICY,
    set_config=policy_of(
        connect_timeout=PATIENCE,
        health_check_timeout=PATIENCE,
        disconnect_timeout=PATIENCE,
        health_interval=0.25,
    ).set_config,
)


def leave_and_end(scene: Scene) -> None:
    """The backends leave, and the pool ends."""
    scene.leave()
    scene.end()


def leave_late(scene: Scene) -> None:
    """Let the clock jump beyond all timeouts, and the backends leave."""
    scene.be_late()
    scene.leave()


def cancel_claimant(scene: Scene) -> None:
    """The claimant is cancelled."""
    scene.one.cancel()


def cancel_and_leave(scene: Scene) -> None:
    """The claimant is cancelled, and the backends leave."""
    scene.one.cancel()
    scene.leave()


STRIKES: dict[str, Callable[[Scene], None]] = {
    "backends leave": Scene.leave,
    "backends leave and return": Scene.return_,
    "the pool ends": Scene.end,
    "the pool ends at once": Scene.end_at_once,
    "backends leave, the pool ends": leave_and_end,
    "its time is up": Scene.be_late,
    "its time is up, backends leave": leave_late,
}

CANCELLED: dict[str, Callable[[Scene], None]] = {
    "the claimant is cancelled": cancel_claimant,
    "the claimant is cancelled, backends leave": cancel_and_leave,
}

ACTS: dict[str, Do] = {
    "steps": Do(steps=3),
    "a failure": Do(steps=2, error=OSError),
    "deaf": Do(steps=1, delay=0.5, shielded=True),
}


async def tending(one: Sweep, *, hook: Hook, act: Do, event: Callable[[Scene], None]) -> None:
    """A pool does all that it does, and one of its hooks is struck when it is first called."""

    async with a_scene(one, policy=HURRIED) as scene:
        bench = scene.bench
        one.strike = lambda: event(scene)
        bench.script.next(hook, attrs.evolve(act, inside=one.watching))
        if hook == "disconnect":
            scene.others.start_soon(lose_one, scene)
        with one.cancelling():
            await scene.use_by_hand(0.25)
        await trio.sleep(0.75)  # the checks of health come and go
        scene.others.start_soon(scene.use)
        await trio.sleep(1)
        await scene.be_well()


async def lose_one(scene: Scene) -> None:
    """Make the pool close a connection."""
    with suppress(ClaimError):
        scene.bench.discard(await scene.bench.acquire())


#: The chief of the strikes, for hooks that do not just take steps.
CHIEF = ("backends leave", "the pool ends", "its time is up")

for _hook, _await in HOOKS.items():
    _strikes = {**STRIKES, **(CANCELLED if _hook == "on_acquire" else {})}
    for (_act, _do), (_strike, _event) in itertools.product(ACTS.items(), _strikes.items()):
        if _act == "steps" or _strike in CHIEF or _strike in CANCELLED:
            sweeps(
                _await,
                name=f"{_act}, {_strike}",
                by=(getattr(LedgerConnector, _hook),),
                seeds=1,
            )(partial(tending, hook=_hook, act=_do, event=_event))


# ------------------------------------------------------------ each step of each task

#: Whose steps there are, when those of all tasks of a pool are counted.
EVERYBODY = (
    PoolManager.__aenter__,
    PoolManager.__aexit__,
    ManualSets.run,
    *(getattr(LedgerConnector, hook) for hook in HOOKS),
)


async def everything(one: Sweep, *, event: Callable[[Scene], None]) -> None:
    """A pool is opened, used and left; whatever task takes the k-th step, there it is struck."""
    policy = attrs.evolve(HURRIED, drain_timeout=0.5)

    async def life(others: trio.Nursery) -> None:
        async with a_scene(one, policy=policy, others=others) as scene:
            scene.bench.ledger.hold_until = 0
            one.strike = lambda: event(scene)
            scene.others.start_soon(scene.go_on)
            with suppress(ClaimError):
                await scene.bench.pool.wait_ready(2)
                await scene.hold()
                await trio.sleep(0.3)  # the other connection is checked
                scene.others.start_soon(scene.use)
                scene.release()
                await trio.sleep(0.05)
                await scene.hold()
            scene.ended = True

    one.deep = True
    async with trio.open_nursery() as others:
        await one.target(life, others)


_ends: dict[str, Callable[[Scene], None]] = {
    "it is cancelled": cancel_claimant,
    "the pool ends": Scene.end,
    "the pool ends at once": Scene.end_at_once,
    "backends leave": Scene.leave,
    "backends leave and return": Scene.return_,
    "its time is up": Scene.be_late,
}
for _strike, _event in _ends.items():
    sweeps(
        PoolManager.__aenter__,
        PoolManager.__aexit__,
        Resolver.run,
        *HOOKS.values(),
        name=f"at each step of each task, {_strike}",
        by=EVERYBODY if _strike == "it is cancelled" else EVERYBODY[1:],
        seeds=1,
    )(partial(everything, event=_event))


# ---------------------------------------------------- what connectors do by default


@attrs.define(eq=False)
class Stream:
    """A connection that takes steps to close."""

    open_streams: set[Stream]

    def __attrs_post_init__(self) -> None:
        self.open_streams.add(self)

    async def aclose(self) -> None:
        """Close it, in whatever way this ends."""
        try:
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
        finally:
            self.open_streams.remove(self)


class Plainest(Connector[Stream]):
    """A connector that leaves all but a check to the base class."""

    def __init__(self) -> None:
        self.open_streams: set[Stream] = set()

    async def connect(self, backend: Backend) -> Stream:
        """Open one."""
        return Stream(self.open_streams)

    async def is_valid(self, conn: Stream) -> bool:
        """Take two steps."""
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        return True


async def by_default(one: Sweep, *, what: Literal["on_recycle", "disconnect"]) -> None:
    """The default of a hook is cancelled."""
    connector = Plainest()
    conn = await connector.connect(Backend(("a.test", 1)))
    await connector.is_valid(conn)
    await connector.on_acquire(conn)
    await one.target(getattr(connector, what), conn)
    if what == "on_recycle":
        await connector.disconnect(conn)
    assert not connector.open_streams


for _default in ("on_recycle", "disconnect"):
    sweeps(HOOKS[_default], name="by default")(partial(by_default, what=_default))
