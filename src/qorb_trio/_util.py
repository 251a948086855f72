"""Exceptions that pass through the pool: their groups, and what they keep alive."""

from __future__ import annotations

from typing import NoReturn, TypeVar

T = TypeVar("T")


def sole_exception(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What is in a group of one, and else the group: one nursery's layer, no more.

    A group that the user's code has raised keeps its own layers, message and notes.
    """
    return group.exceptions[0] if len(group.exceptions) == 1 else group


def forget_frames(exc: BaseException | None) -> None:
    """Have an exception that is kept for long keep no frames alive.

    What a hook raises in the claimant's task leads, by its traceback or by the exception
    that was being handled, to all the claimant's frames, and so to claims that he forgets.
    """
    if exc is not None:
        exc.__traceback__ = exc.__context__ = exc.__cause__ = None


class NoPublicConstructor(type):
    """To call the class is an error; the package itself calls ``_create``."""

    def __call__(cls, *_args: object, **_kwargs: object) -> NoReturn:
        """Refuse."""
        raise TypeError(f"{cls.__module__}.{cls.__qualname__} has no public constructor")

    def _create(cls: type[T], *args: object) -> T:
        return type.__call__(cls, *args)  # type: ignore[no-any-return]
