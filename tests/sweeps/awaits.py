"""`public_awaits`: everything in the public interface that can be awaited, by introspection."""

from __future__ import annotations

import collections.abc
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from types import FunctionType, ModuleType
from typing import Any, TypeAlias

import qorb_trio

Await: TypeAlias = Callable[..., Any]

#: Types of returned objects that a caller awaits, enters or iterates over.
AWAITABLE = (
    collections.abc.Awaitable,
    collections.abc.AsyncIterator,
    AbstractAsyncContextManager,
)

#: The special methods that Python itself awaits.
SPECIAL = ("__aenter__", "__aexit__", "__aiter__", "__anext__", "__await__")


def public_modules() -> list[ModuleType]:
    """The package and its modules, without those that begin with an underscore."""
    found = [
        module.name
        for module in pkgutil.walk_packages(qorb_trio.__path__, "qorb_trio.")
        if not any(part.startswith("_") for part in module.name.split("."))
    ]
    return [qorb_trio, *map(importlib.import_module, found)]


def public_awaits() -> dict[str, Await]:
    """Return the public awaits by name. An inherited method counts as its base's."""
    found: dict[str, Await] = {}
    seen: set[type] = set()
    for module in public_modules():
        names = getattr(module, "__all__", None) or vars(module)
        for name in names:
            value = getattr(module, name)
            if not name.startswith("_") and _is_ours(value):
                _look_at(value, found, seen)
    return found


def name_of(function: Await) -> str:
    """Such as ``Pool.acquire``."""
    return function.__qualname__


def _is_ours(value: object) -> bool:
    return str(getattr(value, "__module__", "")).startswith("qorb_trio")


def _look_at(value: object, found: dict[str, Await], seen: set[type]) -> None:
    if isinstance(value, type):
        if value not in seen:
            seen.add(value)
            for member in _members(value):
                _look_at(member, found, seen)
    elif isinstance(value, FunctionType):
        returned = _returned(value)
        if _is_async(value) or any(_is_awaitable(kind) for kind in returned):
            known = found.setdefault(name_of(value), value)
            assert known is value, f"two awaits are called {name_of(value)}"
        for kind in returned:  # it may have awaits of its own, as what `open_pool` returns has
            if _is_ours(kind):
                _look_at(kind, found, seen)


def _members(cls: type) -> Iterator[object]:
    for base in cls.__mro__:
        for name, member in vars(base).items():
            if _is_ours(base) and (name in SPECIAL or not name.startswith("_")):
                if isinstance(member, property):
                    yield member.fget
                else:
                    yield getattr(member, "__func__", member)


def _is_async(function: FunctionType) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _is_awaitable(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, AWAITABLE) and not _is_ours(kind)


def _returned(function: FunctionType) -> list[object]:
    """The types in what a function says that it returns."""
    text = function.__annotations__.get("return")
    if isinstance(text, str):
        names = {**vars(typing), **vars(collections.abc), **vars(qorb_trio)}
        text = eval(text, {**names, **inspect.unwrap(function).__globals__})
    return list(_parts(text))


def _parts(kind: object) -> Iterator[object]:
    yield typing.get_origin(kind) or kind
    for part in typing.get_args(kind):
        yield from _parts(part)
