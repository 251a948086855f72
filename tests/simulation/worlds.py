"""A world: everything about one simulation, drawn from its seed before it begins.

All times are multiples of a quarter of a second, in the policy as in the actions, so that
things that have nothing to do with each other fall on the same instant all the time.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import attrs

from qorb_trio import Backend, Balancer, LeastLoaded, PeakEwma, Policy, RoundRobin

from ..harness import (
    HANG,
    OK,
    Do,
    Hook,
    LedgerConnector,
    PlainLedgerConnector,
    When,
    fails,
    policy_of,
    slow,
)
from .actions import (
    AcceptThenClose,
    Action,
    AtStep,
    Break,
    CancelClient,
    Client,
    Cue,
    End,
    EndOfPool,
    EndPool,
    Final,
    Idle,
    Outage,
    Ready,
    Resume,
    Script,
    Set,
    Suspend,
)
from .extras import Extras

HOOKS: tuple[Hook, ...] = ("connect", "is_valid", "on_acquire", "on_recycle", "disconnect")

NAMES = "abcdef"

#: The events for which a cue can wait; `Ledger.note` reports them.
EVENTS = (
    "given back",
    "lent",
    *(f"{hook} {edge}" for hook in HOOKS for edge in ("begins", "ends")),
)

TROUBLE = (
    OK,
    Do(steps=2),
    slow(0.25),
    slow(0.5),
    slow(3),
    Do(delay=1, shielded=True),
    fails(OSError),
    fails(OSError, after=0.5),
    fails(lambda: ExceptionGroup("two", [OSError(), ValueError()])),
    HANG,
)


@attrs.frozen
class World:
    """One simulation."""

    seed: int
    kind: type[PlainLedgerConnector]
    backends: tuple[Backend, ...]
    policy: Policy
    actions: tuple[tuple[float, Action], ...]
    """The actions, each with its time."""

    calm: bool
    """True if nothing but claims can go wrong in this world."""

    balancer: Balancer
    """The balancer, which chooses the backend of a claim."""

    has_extras: bool
    """True if connections grow old, or if anything of `extras` happens."""

    @property
    def is_choosy(self) -> bool:
        """True if the choice of the backend for a claim depends on more than the load."""
        clients = [it for _, action in self.actions for it in _clients_of(action)]
        if self.balancer != LeastLoaded() or self.has_extras:
            return True
        return any(it.key or it.avoid for it in clients)


def _clients_of(action: Action) -> list[Client]:
    if isinstance(action, Cue):
        return _clients_of(action.then)
    return [action] if isinstance(action, Client) else []


def make_world(seed: int) -> World:
    """The world of that seed."""
    rng = random.Random(f"world {seed}")
    calm = rng.random() < 0.15
    drawn = _Drawn(rng, random.Random(f"options {seed}"), calm=calm)
    kinds: list[type[PlainLedgerConnector]] = [
        LedgerConnector,
        LedgerConnector,
        PlainLedgerConnector,
    ]
    kind = rng.choice(kinds)
    extras = Extras(seed, drawn.names, drawn.policy, calm=calm)
    actions = drawn.suspended(drawn.actions())
    return World(
        seed=seed,
        kind=extras.wire(kind),
        backends=drawn.first,
        policy=extras.policy,
        actions=tuple(extras.added_to(actions)),
        calm=calm,
        balancer=drawn.balancer,
        has_extras=extras.is_on,
    )


class _Drawn:
    """Draws one world."""

    def __init__(self, rng: random.Random, options: random.Random, *, calm: bool) -> None:
        self.rng = rng
        #: A source of its own for what is optional, so that without it a world stays as it is.
        self.options = options
        balancers: list[Balancer] = [LeastLoaded(), LeastLoaded(), PeakEwma(), RoundRobin()]
        self.balancer = options.choice(balancers)
        self.has_options = options.random() < 0.3
        self.calm = calm
        #: True if backends die and hang much more often than anything else happens.
        self.stormy = not calm and rng.random() < 0.2
        self.names = NAMES[: rng.choice([4, 6] if self.stormy else [1, 2, 3, 4, 4, 6])]
        self.uneven = rng.random() < 0.3
        self.tiers = rng.random() < 0.3
        self.policy = self._policy()
        self.first = self._some_backends(self.names)

    def actions(self) -> list[tuple[float, Action]]:
        """Draw the actions, each with its time, in order."""
        rng, now = self.rng, 0.0
        length = rng.choice([10, 20, 40])
        busy = rng.choice([0.2, 0.5, 0.8])
        if rng.random() < 0.2:
            now = 2.0  # by then, it has warmed up
        drawn = []
        for _ in range(length):
            drawn.append((now, self._action()))
            if rng.random() > busy:
                now += rng.choice([0.25, 0.25, 0.25, 1, 10 if self.stormy else 3])
        if rng.random() < 0.35:
            how = rng.choice(get_args(EndOfPool))
            end: Action = EndPool(how, self._at_step() if rng.random() < 0.5 else 0.25)
            if rng.random() < 0.5:
                end = Cue(rng.choice(EVENTS), rng.randrange(1, 10), rng.choice([0, 0, 1, 2]), end)
            drawn.insert(rng.randrange(length // 2, length), (drawn[length // 2][0], end))
        if not self.calm and rng.random() < 0.1:
            drawn.insert(length // 2, (drawn[length // 2][0], Final()))
        return drawn

    def suspended(self, actions: list[tuple[float, Action]]) -> list[tuple[float, Action]]:
        """The same, in some worlds with times in which the pool is suspended."""
        rng = self.options
        if rng.random() < 0.75:
            return actions
        for _ in range(rng.randrange(1, 4)):
            first = rng.randrange(len(actions))
            last = min(len(actions) - 1, first + rng.randrange(1, 8))
            drawn: list[tuple[int, Action]] = [(last, Resume()), (first, Suspend())]
            if rng.random() < 0.5:
                drawn.append((first, Idle(rng.choice([0.25, 2, 20]))))
            if rng.random() < 0.3:
                drawn.append((first, Cue(rng.choice(EVENTS), rng.randrange(1, 6), 0, Suspend())))
                drawn.append((first, Cue(rng.choice(EVENTS), rng.randrange(1, 9), 0, Resume())))
            for place, action in drawn:
                actions.insert(place, (actions[place][0], action))
        return actions

    def _action(self) -> Action:
        rng = self.rng
        draws: Sequence[tuple[Callable[[], Action], int]] = [(self._client, 12), (self._ready, 1)]
        if not self.calm:
            draws = [
                *draws,
                (self._script, 3),
                (self._break, 1),
                (self._outage, 12 if self.stormy else 2),
                (self._set, 1),
                (self._cue, 3),
                (self._accept_then_close, 1),
            ]
        (draw,) = rng.choices([draw for draw, _ in draws], [weight for _, weight in draws])
        return draw()

    def _client(self) -> Action:
        rng = self.rng
        cancel: AtStep | float = math.inf
        if rng.random() < 0.3:
            cancel = self._at_step()
        elif rng.random() < 0.3:
            cancel = rng.choice([0.0, 0.25, 0.5, 1, 5])
        by: Literal["claim", "acquire"] = "claim" if rng.random() < 0.5 else "acquire"
        ends: list[End] = ["release", "release", "release", "raise"]
        if by == "acquire":
            ends += ["discard", "lose", "elsewhere"]
        if not self.calm:
            ends.append("break")
        return Client(
            by=by,
            timeout=rng.choice([None, 0.0, 0.25, 0.5, 2, 20, math.inf]),
            hold=rng.choice([0, 0, 0.25, 0.5, 1, 3]),
            end=rng.choice(ends),
            cancel=cancel,
            **self._options(),
        )

    def _options(self) -> dict[str, Any]:
        """The key of a claim, and the backends that it avoids; mostly none."""
        rng = self.options
        key, avoid, nowait = rng.randrange(4), rng.sample(NAMES, rng.randrange(1, 3)), rng.random()
        if not self.has_options or rng.random() < 0.4:
            return {}
        if nowait < 0.2:
            return {"nowait": True}
        return {
            "key": rng.choice([None, f"key {key}", key + 1]),
            "avoid": "".join(rng.choice([[], avoid])),
            "label": rng.choice([None, "a label"]),
        }

    def _at_step(self) -> AtStep:
        return AtStep(self.rng.randrange(1, 8), self.rng.choice(list(When)))

    def _ready(self) -> Action:
        rng = self.rng
        cancel: AtStep | float = self._at_step() if rng.random() < 0.3 else math.inf
        slots = rng.randint(1, self.policy.max_slots)
        return Ready(slots, rng.choice([0.0, 0.25, 2, 20]), cancel)

    def _script(self) -> Action:
        rng = self.rng
        hook = rng.choice(HOOKS)
        config = self.policy.set_config
        endless = {
            "connect": False,  # the pool itself gives up what takes too long
            "disconnect": config.disconnect_timeout == math.inf,
        }.get(hook, config.health_check_timeout == math.inf)
        acts = [act for act in TROUBLE if not (endless and act is HANG)]
        if hook == "is_valid":
            acts.append(Do(valid=False))
        return Script(hook, rng.choice(acts), rng.choice([None, *self.names]))

    def _break(self) -> Action:
        rng = self.rng
        return Break(rng.choice([1, 2, 3, *self.names]))

    def _outage(self) -> Action:
        rng = self.rng
        names = rng.sample(self.names, rng.randint(1, max(1, len(self.names) - 1)))
        dial = rng.choice([OK, fails(OSError), fails(OSError, after=0.25), HANG])
        return Outage("".join(sorted(names)), dial)

    def _accept_then_close(self) -> Action:
        return AcceptThenClose(self.rng.choice(self.names), self.rng.random() < 0.5)

    def _set(self) -> Action:
        rng = self.rng
        return Set(
            self._some_backends("".join(rng.sample(self.names, rng.randint(0, len(self.names)))))
        )

    def _cue(self) -> Action:
        rng = self.rng
        then = rng.choice(
            [self._set, self._set, self._break, self._client, self._script, self._cancel_client]
        )()
        return Cue(rng.choice(EVENTS), rng.randrange(1, 6), rng.choice([0, 0, 0, 1, 2, 3]), then)

    def _cancel_client(self) -> Action:
        return CancelClient(self.rng.randrange(100))

    def _some_backends(self, names: str) -> tuple[Backend, ...]:
        """One for each name; now and then at another address, and not all alike."""
        rng = self.rng
        return tuple(
            Backend(
                (f"{name}.test", 1000 + (rng.random() < 0.1)),
                name=name,
                priority=rng.randrange(2) if self.tiers else 0,
                weight=rng.choice([0, 1, 2, 5]) if self.uneven else 1,
            )
            for name in names
        )

    def _policy(self) -> Policy:
        rng = self.rng
        fields: dict[str, Any] = {
            "max_slots": rng.choice([1, 1, 2, 3, 4, 6, 8, 16, 64]),
            "max_count": rng.choice([1, 2, 3, 5, 16, 64]),
            "spares_wanted": rng.choice([0, 1, 1, 2, 4, 20]),
            "claim_timeout": rng.choice([0, 0.5, 5, 30, math.inf]),
            "health_interval": rng.choice([0.25, 0.5, 5, 30, math.inf]),
            "rebalance_interval": rng.choice([0.25, 0.5, 1, 3, 60, math.inf]),
            "connect_timeout": rng.choice([0.5, 0.5, 2, 2, 2, 10, math.inf]),
            "health_check_timeout": rng.choice([0.25, 1, 3, math.inf]),
            "disconnect_timeout": rng.choice([0, 0.25, 0.5, 1, math.inf]),
            "min_connection_backoff": 0.25,
            "max_connection_backoff": rng.choice([0.25, 1, 2, 8]),
            "spread": rng.choice([0, 0, 0.02]),
            "drain_timeout": rng.choice([0, 0.25, 1, 50, math.inf]),
            "leak_warning_after": rng.choice([0.5, math.inf, math.inf]),
        }
        if self.stormy:  # there is too little for one each
            fields["max_slots"] = rng.choice([2, 3, 4, 6])
            fields["spares_wanted"] = rng.choice([2, 4, 20])
        return policy_of(**fields, **self._rules())

    def _rules(self) -> dict[str, Any]:
        """The rules that refuse claimants; in most worlds there are none."""
        rng = self.options
        rules = {
            "max_waiting": rng.choice([0, 1, 2, 5]),
            "fail_fast_after": rng.choice([0, 0.25, 1, 5]),
            "queue_target": rng.choice([0.05, 0.25, 1]),
        }
        return {rule: value for rule, value in rules.items() if rng.random() < 0.15}
