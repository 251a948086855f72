"""Extras of some worlds: connections that grow old, ejections, and faults of the field.

All is drawn from a source of its own, so that a world without them stays as it is.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from operator import itemgetter
from typing import Any, get_args

import attrs

from qorb_trio import Ejection, Policy

from ..harness import LedgerConnector, PlainLedgerConnector
from .actions import Action, Client
from .field_actions import Call, FailFast, FromThread, HangUp, Reconfigure, Recycle, Silent
from .watched import Wired, WiredLedgerConnector

#: The part of all worlds that have extras.
SHARE = 0.6


class Extras:
    """The extras of one world."""

    def __init__(self, seed: int, names: str, policy: Policy, *, calm: bool) -> None:
        self._rng = random.Random(f"extras {seed}")
        self._names = names
        self._calm = calm
        self.is_on = self._rng.random() < SHARE
        self._is_wired = self.is_on and self._rng.random() < 0.5
        self.policy = self._aging(policy) if self.is_on else policy

    def wire(self, kind: type[PlainLedgerConnector]) -> type[PlainLedgerConnector]:
        """Return the same kind of connector, with descriptors to watch in some worlds."""
        if not self._is_wired:
            return kind
        return WiredLedgerConnector if kind is LedgerConnector else Wired

    def added_to(self, actions: list[tuple[float, Action]]) -> list[tuple[float, Action]]:
        """Return the actions of the world, with a few of the field between them."""
        if not self.is_on:
            return actions
        for _ in range(self._rng.randrange(2, 10)):
            place = self._rng.randrange(len(actions))
            actions.insert(place, (actions[place][0], self._action()))
        if not self._calm and self._rng.random() < 0.7:
            self._add_bad_hour(actions)
        return actions

    def _add_bad_hour(self, actions: list[tuple[float, Action]]) -> None:
        """Let the claims of one backend fail while many come, so that it is ejected."""
        name = self._rng.choice(self._names)
        start = self._rng.choice([actions[-1][0] + 1, actions[len(actions) // 2][0]])
        times = [start + 0.25 * quarter for quarter in range(self._rng.randrange(8, 20))]
        actions.append((start, FailFast(name, yes=True)))
        actions += [(time, self._short_claim()) for time in times for _ in range(3)]
        actions.append((times[-1], FailFast(name, yes=False)))
        actions.sort(key=itemgetter(0))

    def _short_claim(self) -> Action:
        return Client(by="claim", timeout=2, hold=self._rng.choice([0, 0.25]), end="release")

    def _action(self) -> Action:
        draws: list[tuple[Callable[[], Action], int]] = [
            (self._hang_up, 4),
            (self._from_thread, 2),
            (self._recycle, 1),
            (self._reconfigure, 2),
        ]
        if not self._calm:
            draws += [(self._fail_fast, 3), (self._silent, 2)]
        (draw,) = self._rng.choices([draw for draw, _ in draws], [weight for _, weight in draws])
        return draw()

    def _hang_up(self) -> Action:
        return HangUp(self._rng.choice([1, 2, 64]), self._rng.choice([None, *self._names]))

    def _from_thread(self) -> Action:
        return FromThread(self._rng.choice(get_args(Call)))

    def _recycle(self) -> Action:
        return Recycle(self._rng.choice([0, 0, 1, 5]))

    def _fail_fast(self) -> Action:
        return FailFast(self._rng.choice(self._names), self._rng.random() < 0.7)

    def _silent(self) -> Action:
        return Silent(self._rng.choice(self._names), self._rng.random() < 0.6)

    def _reconfigure(self) -> Action:
        rng = self._rng
        caps: dict[str, Any] = {
            "max_slots": rng.choice([1, 2, 3, 6, 16]),
            "spares_wanted": rng.choice([0, 1, 2, 4, 20]),
            "claim_timeout": rng.choice([0, 0.5, 5, 30]),
            "rebalance_interval": rng.choice([0.25, 1, 3, 60]),
        }
        changes = {name: value for name, value in caps.items() if rng.random() < 0.4}
        config = self.policy.set_config
        if rng.random() < 0.4:
            config = attrs.evolve(config, max_count=rng.choice([1, 2, 3, 16]))
        changed = attrs.evolve(self.policy, set_config=config, **changes)
        return Reconfigure(self._aging(changed) if rng.random() < 0.5 else changed)

    def _aging(self, policy: Policy) -> Policy:
        """Return the policy with some limits to the life of connections, and with ejection."""
        rng = self._rng
        limits: dict[str, Any] = {
            "max_lifetime": rng.choice([2, 5, 20]),
            "idle_timeout": rng.choice([0.5, 2, 5]),
            "max_uses": rng.choice([1, 2, 5]),
            "max_connecting": rng.choice([1, 1, 2]),
            "slow_start": rng.choice([1, 5]),
        }
        chosen = {name: value for name, value in limits.items() if rng.random() < 0.3}
        ejections = [
            None,
            Ejection(failures=2, base_time=0.5, max_time=4),
            Ejection(failures=1, base_time=1, max_time=2, max_ejected=1),
            Ejection(failures=3, failure_rate=1, base_time=2, max_time=8, max_ejected=0.75),
        ]
        return attrs.evolve(
            policy,
            ejection=rng.choice(ejections),
            set_config=attrs.evolve(policy.set_config, **chosen),
        )
