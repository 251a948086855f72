"""Sweeps of a pool's own awaits: opening, claiming, waiting, ending."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import attrs
import trio

from qorb_trio import Claim, ClaimError, Ejection, Policy, Pool, PoolTerminatedError
from qorb_trio._pool.open_pool import PoolManager

from ..harness import Do, LedgerConnector, PlainLedgerConnector, Sweep, backends, fails
from .registry import sweeps
from .scene import POLICY, Scene, a_scene, strike

#: Events in one tick with the cancellation, each with the ticks until the pool notices it.
EVENTS: dict[str, tuple[Callable[[Scene], None], int]] = {
    "nothing else": (Scene.nothing, 0),
    "a release": (Scene.release, 0),
    "a discard": (Scene.discard, 2),
    "a dial's end": (Scene.open_gate, 1),
    "a clean-up's end": (Scene.open_gate, 1),
    "a set-up's end": (Scene.open_gate, 0),
    "backends leave": (Scene.leave, 2),
    "backends leave and return": (Scene.return_, 2),
    "backends come": (Scene.come, 2),
    "the pool ends": (Scene.end, 1),
    "the pool ends at once": (Scene.end_at_once, 0),
    "its time is up": (Scene.be_late, 1),
    "another claim": (Scene.another, 1),
    "peers hang up": (Scene.break_, 0),
    "it is suspended": (Scene.suspend, 0),
    "it is resumed": (Scene.resume, 0),
    "it is recycled": (Scene.recycle, 1),
    "its cap is lowered": (Scene.lower_the_cap, 1),
    "lives are limited": (Scene.limit_lives, 1),
}

# `Claim.__aenter__` returns one of two coroutines.
FAST, SLOW = (Claim._enter_fast,), (Claim._enter_slow,)

# `Pool.acquire` returns a coroutine too.
BY_HAND = (Claim._enter_by_hand,)


#: Events that may happen in any situation.
ANYWHERE = (
    "nothing else",
    "backends leave",
    "backends leave and return",
    "the pool ends",
    "the pool ends at once",
    "its time is up",
)

#: The chief of them, for what is much like something else.
CHIEF = ("nothing else", "a release", "backends leave", "the pool ends", "its time is up")


# ------------------------------------------------------------------------- claims


async def with_no_backends(scene: Scene) -> None:
    """No backend is known."""
    scene.leave()
    await scene.bench.settle()


async def with_a_spare(scene: Scene) -> None:
    """There is a spare."""
    await scene.bench.pool.wait_ready(2)
    await scene.hold()


async def with_none_left(scene: Scene) -> None:
    """All connections are in use."""
    await scene.bench.pool.wait_ready(2)
    await scene.hold()
    await scene.hold()


async def with_a_dial(scene: Scene) -> None:
    """The first connections are on their way."""
    await scene.bench.settle()


async def with_a_clean_up(scene: Scene) -> None:
    """Release all connections, and keep their clean-ups under way."""
    await with_none_left(scene)
    scene.bench.script.always("on_recycle", Do(steps=2, until=scene.gate))
    scene.release()
    scene.release()


async def with_a_set_up(scene: Scene) -> None:
    """The first connection cannot be set up, the second takes long."""
    await scene.bench.pool.wait_ready(2)
    scene.bench.script.next("on_acquire", fails(OSError), Do(steps=1, until=scene.gate))


@attrs.frozen
class Situation:
    """A state of the pool when a claim is made, and the events to try, beyond `ANYWHERE`."""

    prepare: Callable[[Scene], Awaitable[None]]
    events: tuple[str, ...]


SITUATIONS = {
    "no backends": Situation(with_no_backends, ("backends come",)),
    "a spare": Situation(with_a_spare, ("a release", "another claim", "peers hang up")),
    "none left": Situation(with_none_left, ("a release", "a discard", "another claim")),
    "dials": Situation(with_a_dial, ("a dial's end", "another claim")),
    "a clean-up": Situation(with_a_clean_up, ("a clean-up's end",)),
    "a set-up": Situation(with_a_set_up, ("a set-up's end", "peers hang up")),
}

#: Those in which a connector without optional hooks is swept too: the pool goes another way.
WITHOUT_HOOKS = ("no backends", "a spare", "none left", "dials")


async def claiming(
    one: Sweep,
    *,
    situation: str,
    event: str,
    kind: type[PlainLedgerConnector],
    use: Callable[[Scene], Awaitable[None]],
    policy: Policy = POLICY,
) -> None:
    """Claim a connection; the claimant is cancelled, and the event happens at the same time."""
    async with a_scene(one, kind=kind, policy=policy) as scene:
        if situation == "dials":
            scene.bench.script.always("connect", Do(steps=1, until=scene.gate))
        await SITUATIONS[situation].prepare(scene)
        scene.others.start_soon(scene.go_on)
        one.strike = strike(scene, *EVENTS[event])
        await one.target(use, scene)
        await scene.be_well()


for _name, _situation in SITUATIONS.items():
    for _event in (*ANYWHERE, *_situation.events):
        _given: dict[str, Any] = {"situation": _name, "event": _event}
        _seeds = 1 if _event == "nothing else" else 2
        sweeps(Claim.__aenter__, name=f"{_name}, {_event}", by=SLOW, seeds=_seeds)(
            partial(claiming, **_given, kind=LedgerConnector, use=Scene.use)
        )
        if _name in WITHOUT_HOOKS:
            sweeps(Claim.__aenter__, name=f"{_name}, {_event}, no hooks", by=FAST, seeds=_seeds)(
                partial(claiming, **_given, kind=PlainLedgerConnector, use=Scene.use)
            )
        if _event in CHIEF:
            sweeps(Pool.acquire, name=f"{_name}, {_event}", by=BY_HAND, seeds=1)(
                partial(claiming, **_given, kind=LedgerConnector, use=Scene.use_by_hand)
            )


# ----------------------------------------------------------- claims with options, refusals


async def use_with_options(scene: Scene) -> None:
    """Claim with a key, with a backend to avoid, and with a label."""
    a, _ = backends("ab")
    with suppress(ClaimError):
        await scene.bench.use(0.5, key="k", avoid={a}, label="with options")


async def wait_by_the_rules(scene: Scene) -> None:
    """All connections are in use, and one claimant too many already waits."""
    await with_none_left(scene)
    scene.another()
    await scene.bench.settle()


async def while_suspended(scene: Scene) -> None:
    """There is a spare, but nothing is lent."""
    await with_a_spare(scene)
    scene.bench.pool.suspend()


SITUATIONS["suspended"] = Situation(while_suspended, ("a release", "a discard", "it is resumed"))

for _name in ("a spare", "none left", "a set-up", "suspended"):
    for _event in (*CHIEF, *SITUATIONS[_name].events):
        _given = {"situation": _name, "event": _event}
        sweeps(Claim.__aenter__, name=f"with options, {_name}, {_event}", by=SLOW)(
            partial(claiming, **_given, kind=LedgerConnector, use=use_with_options)
        )
        sweeps(Claim.__aenter__, name=f"with options, {_name}, {_event}, no hooks", by=FAST)(
            partial(claiming, **_given, kind=PlainLedgerConnector, use=use_with_options)
        )
for _event in (*CHIEF, "it is resumed", "it is suspended"):
    sweeps(Claim.__aenter__, name=f"suspended, {_event}, no hooks", by=FAST)(
        partial(
            claiming,
            situation="suspended",
            event=_event,
            kind=PlainLedgerConnector,
            use=Scene.use,
        )
    )


# ------------------------------------------------------- ageing, changes, trials, reports

#: Every connection serves one claim, and none for longer than two seconds.
SHORT_LIVED = attrs.evolve(
    POLICY, set_config=attrs.evolve(POLICY.set_config, max_uses=1, max_lifetime=2)
)

#: One bad claim ejects a backend, for a second at most.
STRICT = attrs.evolve(POLICY, ejection=Ejection(failures=1, base_time=1))


async def with_a_trial(scene: Scene) -> None:
    """A backend is ejected, and the next claim is its trial."""
    a, b = backends("ab")
    await scene.bench.pool.wait_ready(2)
    claim = await scene.bench.acquire(avoid={b})
    assert claim.backend == a
    claim.report(failed=True)
    scene.bench.release(claim)
    await scene.bench.settle(1)
    assert scene.bench.stats().backends["a"].ejected_until is not None


async def use_and_report(scene: Scene) -> None:
    """Claim a connection, and say that its backend served the claim badly."""
    with suppress(ClaimError):
        claim = await scene.bench.acquire()
        try:
            await trio.sleep(0.2)
            claim.report(failed=True)
            await trio.sleep(0.2)
        finally:
            scene.bench.release(claim)


SITUATIONS["a trial"] = Situation(with_a_trial, ("another claim", "peers hang up"))

CHANGES = ("it is recycled", "its cap is lowered", "lives are limited")

for _name in ("a spare", "none left", "dials", "a clean-up", "a set-up", "suspended"):
    for _event in CHANGES:
        _given = {"situation": _name, "event": _event}
        sweeps(Claim.__aenter__, name=f"{_name}, {_event}", by=SLOW, seeds=1)(
            partial(claiming, **_given, kind=LedgerConnector, use=Scene.use)
        )
for _name in ("a spare", "none left", "a set-up"):
    for _event in (*CHIEF, *CHANGES[:2], "another claim"):
        _given = {"situation": _name, "event": _event, "policy": SHORT_LIVED}
        sweeps(Claim.__aenter__, name=f"short-lived, {_name}, {_event}", by=SLOW, seeds=1)(
            partial(claiming, **_given, kind=LedgerConnector, use=Scene.use)
        )
for _event in (*CHIEF, *SITUATIONS["a trial"].events, *CHANGES):
    for _kind, _by in ((LedgerConnector, SLOW), (PlainLedgerConnector, FAST)):
        _given = {"situation": "a trial", "event": _event, "kind": _kind, "policy": STRICT}
        sweeps(Claim.__aenter__, name=f"a trial, {_event}, {_kind.__name__}", by=_by, seeds=1)(
            partial(claiming, **_given, use=Scene.use)
        )
for _name in ("a spare", "none left", "a trial"):
    for _event in CHIEF:
        _given = {"situation": _name, "event": _event, "policy": STRICT}
        sweeps(Pool.acquire, name=f"with a report, {_name}, {_event}", by=BY_HAND, seeds=1)(
            partial(claiming, **_given, kind=LedgerConnector, use=use_and_report)
        )


# ------------------------------------------------------------------ rules of the queue


async def being_refused(one: Sweep, *, rule: str, event: str) -> None:
    """Claim a connection, with a rule of the queue that refuses it."""
    options: dict[str, Any] = {rule: 1 if rule == "max_waiting" else 0.5}
    policy = attrs.evolve(POLICY, **options)
    async with a_scene(one, policy=policy, kind=PlainLedgerConnector) as scene:
        if rule == "fail_fast_after":
            await with_no_backends(scene)
            await scene.bench.settle(1)
        else:
            await wait_by_the_rules(scene)
        scene.others.start_soon(scene.go_on)
        one.strike = strike(scene, *EVENTS[event])
        await one.target(scene.use)
        await scene.be_well()


for _rule in ("max_waiting", "fail_fast_after", "queue_target"):
    for _event in (*CHIEF, "it is suspended"):
        sweeps(Claim.__aenter__, name=f"{_rule}, {_event}", by=FAST)(
            partial(being_refused, rule=_rule, event=_event)
        )


# ----------------------------------------------------------------------------- being idle


async def becoming_idle(one: Sweep, *, event: str, suspended: bool) -> None:
    """Wait until no claim is outstanding."""

    async def wait_idle(scene: Scene) -> None:
        await scene.bench.pool.wait_idle()

    async with a_scene(one, kind=PlainLedgerConnector) as scene:
        await with_none_left(scene)
        if suspended:
            scene.bench.pool.suspend()
        scene.others.start_soon(scene.go_on)
        scene.others.start_soon(scene.go_on)
        one.strike = strike(scene, *EVENTS[event])
        await one.target(wait_idle, scene)
        await scene.be_well()


for _event in (
    *CHIEF,
    *CHANGES,
    "a discard",
    "another claim",
    "it is suspended",
    "it is resumed",
):
    for _suspended in (False, True):
        _how = "suspended" if _suspended else "open"
        sweeps(Pool.wait_idle, name=f"{_how}, {_event}")(
            partial(becoming_idle, event=_event, suspended=_suspended)
        )


# -------------------------------------------------------------------- getting ready


async def getting_ready(one: Sweep, *, event: str) -> None:
    """Wait until all slots are connected."""
    policy = attrs.evolve(POLICY, spares_wanted=0)

    async def wait_ready(scene: Scene) -> None:
        with suppress(PoolTerminatedError):
            await scene.bench.pool.wait_ready(2)

    async with a_scene(one, policy=policy) as scene:
        scene.bench.script.always("connect", Do(steps=1, until=scene.gate))
        scene.others.start_soon(scene.go_on)
        one.strike = strike(scene, *EVENTS[event])
        await one.target(wait_ready, scene)
        await scene.be_well()


for _event in (*ANYWHERE, "a dial's end", "it is recycled", "lives are limited"):
    sweeps(Pool.wait_ready, name=_event)(partial(getting_ready, event=_event))


# --------------------------------------------------------------------------- the end


async def ending(one: Sweep, *, how: str, event: str, closing: Do) -> None:
    """End the pool while a claim is held."""
    async with a_scene(one) as scene:
        await with_a_spare(scene)
        bench = scene.bench
        bench.script.always("disconnect", closing)
        scene.others.start_soon(scene.go_on)
        bench.may_cut(0)  # as soon as the end is cancelled
        scene.ended = True
        one.strike = strike(scene, *EVENTS[event])
        await one.target(getattr(bench.pool, how))
        # A cancelled end does not drain, but it still closes all connections.
        assert not bench.ledger.at_the_end()
        await scene.be_well()


for _event in (*ANYWHERE, *CHANGES, "a release", "a discard", "another claim"):
    sweeps(Pool.terminate, name=_event)(
        partial(ending, how="terminate", event=_event, closing=Do(steps=2))
    )
for _event in CHIEF:
    sweeps(Pool.terminate, name=f"{_event}, slowly")(
        partial(ending, how="aclose", event=_event, closing=Do(steps=1, delay=0.5))
    )


# ------------------------------------------------------------------------- all of it


async def living(one: Sweep, *, event: str, outside: bool = False) -> None:
    """A pool is opened, used and left: its nursery is cancelled with it, or is not."""
    left: list[Scene] = []

    async def life(nursery: trio.Nursery | None, clients: trio.Nursery) -> None:
        async with a_scene(one, nursery=nursery, others=clients) as scene:
            left.append(scene)
            one.strike = strike(scene, *EVENTS[event])
            scene.bench.ledger.hold_until = 0
            scene.bench.script.next("connect", Do(steps=2, until=scene.gate))
            scene.others.start_soon(scene.go_on)
            with suppress(PoolTerminatedError):  # somebody else has ended it
                await scene.bench.pool.wait_ready(1)
                await scene.hold()
                scene.others.start_soon(scene.use)
                await trio.sleep(0.25)
            scene.ended = True

    async with trio.open_nursery() as clients, trio.open_nursery() as nursery:
        await one.target(life, nursery if outside else None, clients)
        for scene in left:
            scene.ended = True


for _event in (*ANYWHERE, "a release", "a discard", "a dial's end", "another claim"):
    sweeps(PoolManager.__aenter__, PoolManager.__aexit__, name=_event)(
        partial(living, event=_event)
    )
for _event in CHIEF:
    sweeps(PoolManager.__aenter__, PoolManager.__aexit__, name=f"{_event}, its nursery goes on")(
        partial(living, event=_event, outside=True)
    )
