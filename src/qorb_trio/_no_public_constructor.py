"""A metaclass for classes that users hold but must not make."""

from __future__ import annotations

from typing import NoReturn, TypeVar

T = TypeVar("T")


class NoPublicConstructor(type):
    """To call the class is an error; the package itself calls ``_create``."""

    def __call__(cls, *_args: object, **_kwargs: object) -> NoReturn:
        """Refuse."""
        raise TypeError(f"{cls.__module__}.{cls.__qualname__} has no public constructor")

    def _create(cls: type[T], *args: object) -> T:
        return type.__call__(cls, *args)  # type: ignore[no-any-return]
