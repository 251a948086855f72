"""`Switches`: what the hooks of a `FakeConnector` do, and how long that takes."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, final

import trio

#: The methods of a connector that can be told to fail, to stall or to be slow.
Hook: TypeAlias = Literal["connect", "is_valid", "on_acquire", "on_recycle", "disconnect"]

HOOKS: Final = ("connect", "is_valid", "on_acquire", "on_recycle", "disconnect")

Outcome: TypeAlias = "Literal['ok', 'never'] | BaseException | type[BaseException]"


@final
class Switches:
    """The outcome and the delay of each hook, for one backend by name or (``None``) for all.

    The last word wins: a word for all of them overrides earlier ones for single ones.
    """

    def __init__(self) -> None:
        self._outcomes: dict[str, dict[str | None, Outcome]] = {hook: {} for hook in HOOKS}
        self._delays: dict[str, dict[str | None, float]] = {hook: {} for hook in HOOKS}
        self._changed = trio.lowlevel.ParkingLot()

    def set_outcome(self, hook: Hook, name: str | None, outcome: Outcome) -> None:
        if name is None:
            self._outcomes[hook].clear()
        self._outcomes[hook][name] = outcome
        self._changed.unpark_all()

    def set_delay(self, hook: Hook, name: str | None, delay: float) -> None:
        if name is None:
            self._delays[hook].clear()
        self._delays[hook][name] = delay

    def delay(self, hook: Hook, name: str | None) -> float:
        delays = self._delays[hook]
        return delays.get(name, delays.get(None, 0.0))

    def _outcome(self, hook: Hook, name: str) -> Outcome:
        outcomes = self._outcomes[hook]
        return outcomes.get(name, outcomes.get(None, "ok"))

    async def perform(self, hook: Hook, name: str) -> None:
        # The outcome is looked up last, so that what is switched while a hook is slow
        # or stalled holds for that call too.
        await trio.sleep(self.delay(hook, name))
        while (outcome := self._outcome(hook, name)) == "never":
            await self._changed.park()
        if not isinstance(outcome, str):
            # One object may be raised many times: without this, its traceback grows.
            raise outcome if isinstance(outcome, type) else outcome.with_traceback(None)
