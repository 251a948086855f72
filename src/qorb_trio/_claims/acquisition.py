"""`Acquisition`: the coroutine of `Pool.acquire`, with hints for those who do not await it."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from types import TracebackType, coroutine
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast, final

T = TypeVar("T")

_HINT = "pool.acquire() must be awaited: use `async with pool.claim() as connection`, or `{}`"


@coroutine
def _drive(coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Delegate to a coroutine, which a plain generator cannot."""
    return (yield from coroutine)


@final
class Acquisition(Coroutine[Any, Any, T]):
    """A coroutine that says what to do if it is entered instead of awaited."""

    __slots__ = ("_coroutine",)

    def __init__(self, coroutine: Any) -> None:
        self._coroutine: Coroutine[Any, Any, T] = coroutine
        # Python warns by this name if it is never awaited.
        coroutine.__qualname__ = "Pool.acquire"

    def __await__(self) -> Generator[Any, Any, T]:
        # Not by `self._coroutine.__await__()`: what that returns hides the frames behind it
        # from Trio, which shows where a task waits.
        return (yield from cast("Generator[Any, Any, T]", _drive(self._coroutine)))

    def send(self, value: Any) -> Any:
        """Continue the coroutine."""
        return self._coroutine.send(value)

    def throw(
        self,
        typ: Any,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> Any:
        """Continue the coroutine with an exception."""
        if val is None and tb is None:  # the one form that is not deprecated
            return self._coroutine.throw(typ)
        return self._coroutine.throw(typ, val, tb)

    def close(self) -> None:
        """End the coroutine."""
        self._coroutine.close()

    # To a type checker, each of these is the mistake that it is.
    if not TYPE_CHECKING:

        def __aenter__(self) -> NoReturn:
            self._refuse("claim = await pool.acquire()")

        def __aexit__(self, *_: object) -> NoReturn:
            raise AssertionError("never entered")

        def __enter__(self) -> NoReturn:
            self._refuse("with await pool.acquire() as connection")

        def __exit__(self, *_: object) -> NoReturn:
            raise AssertionError("never entered")

    def _refuse(self, instead: str) -> NoReturn:
        self._coroutine.close()  # it is known already that it will not be awaited
        raise RuntimeError(_HINT.format(instead))
