"""`GuardedHooks`: the synchronous hooks that are asked about a connection whose claim has ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar, final

import attrs

from .._slots.slot_set import Slot
from .closer import Closer
from .hooks import Hooks
from .outcomes import Outcomes

C = TypeVar("C")


@final
@attrs.define(eq=False, repr=False)
class GuardedHooks(Generic[C]):
    """The guards around the synchronous hooks of the user's.

    An `Exception` from a hook is recorded as an error of the connection, and the careful answer
    is taken. Anything else, as a `KeyboardInterrupt`, closes the connection and goes on.
    """

    _hooks: Hooks[C]
    _outcomes: Outcomes[C]
    _closer: Closer[C]

    def should_recycle(self, slot: Slot[C], exc: BaseException | None) -> bool:
        """Return True if a returned connection may be lent again; False if the hook raises."""
        return self._ask(slot, self._hooks.should_recycle, exc, otherwise=False)

    def needs_recycle(self, slot: Slot[C]) -> bool:
        """Return True if a returned connection has to be cleaned, also if the hook raises."""
        return self._ask(slot, self._hooks.needs_recycle, otherwise=True)

    def is_failure(self, slot: Slot[C], exc: BaseException) -> bool:
        """Return True if the backend is to blame for `exc`; False if the hook raises."""
        return self._ask(slot, self._hooks.is_failure, exc, otherwise=False)

    def _ask(
        self,
        slot: Slot[C],
        hook: Callable[..., bool],
        *arguments: BaseException | None,
        otherwise: bool,
    ) -> bool:
        try:
            return hook(slot.connection, *arguments)
        except Exception as failure:  # noqa: BLE001 - the user's code
            self._outcomes.error(slot, failure, hook.__name__)
            return otherwise
        except BaseException:
            self._closer.close(slot)
            raise
