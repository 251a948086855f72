"""The options of a claim that name backends, and its label."""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from qorb_trio import Backend, FixedResolver, open_pool
from qorb_trio._balancing.preference import NO_BACKENDS, make_preference
from qorb_trio._pool.open_pool import PoolManager
from qorb_trio.testing import FakeConnection, FakeConnector

A, B = Backend(("a", 1)), Backend(("b", 1))


class Text(str):
    """A str of the user's."""

    __slots__ = ()


class Octets(bytes):
    """Bytes of the user's, which print as others."""

    def __bytes__(self) -> bytes:
        return b"?"


class Number(IntEnum):
    """Numbers of the user's."""

    SEVEN = 7


@pytest.mark.parametrize("key", ["k", b"k", 0])
def test_a_key(key: Any) -> None:
    """A key is kept as it is, with nothing to avoid."""
    assert make_preference(key, NO_BACKENDS) == (key, ())
    assert make_preference(key, []) == (key, ())


@pytest.mark.parametrize("key", [Text("k"), Octets(b"k"), Number.SEVEN])
def test_a_key_of_a_subclass(key: Any) -> None:
    """A key of a subclass becomes the plain value, which compares and hashes as expected."""
    preference = make_preference(key, NO_BACKENDS)
    assert preference is not None
    plain = preference[0]
    assert type(plain) in {str, bytes, int}
    assert plain == key


@pytest.mark.parametrize(
    "avoid", [[A, B], (A, B), {A: 1, B: 2}, iter([A, B])], ids=lambda it: type(it).__name__
)
def test_any_iterable_of_backends(avoid: Any) -> None:
    """The backends to avoid may come in any iterable, which is read once."""
    assert make_preference(None, avoid) == (None, (A, B))


@pytest.mark.parametrize("kind", [set, frozenset, list, tuple, iter])
def test_one_backend(kind: Any) -> None:
    """The usual way to name a backend to avoid is a set of one."""
    backends = [A]
    assert make_preference(3, kind(backends)) == (3, (A,))


def test_later_changes_of_a_collection() -> None:
    """A change of the collection that was given does not change what the claim avoids."""
    avoid = {A}
    preference = make_preference(None, avoid)
    avoid.add(B)
    assert preference == (None, (A,))


def test_an_iterable_that_fails() -> None:
    """An error that an iterable itself raises is passed on."""

    def backends() -> Iterator[Backend]:
        yield A
        raise TypeError("no more")

    with pytest.raises(TypeError, match=r"^no more$"):
        make_preference(None, backends())


@pytest.mark.parametrize("avoid", ["", b""])
def test_empty_text_is_no_collection(avoid: Any) -> None:
    """A text is a mistake even if it is empty."""
    with pytest.raises(TypeError, match="avoid must be an iterable of Backend"):
        make_preference(None, avoid)


@pytest.mark.parametrize("avoid", [[], set(), iter([])], ids=lambda it: type(it).__name__)
def test_nothing_to_avoid(avoid: Any) -> None:
    """Nothing to avoid is allowed, in any form."""
    assert make_preference(None, avoid) is None


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"timeout": -1}, ValueError, "timeout must not be negative"),
        ({"timeout": math.nan}, ValueError, "timeout must not be"),
        ({"timeout": "1"}, TypeError, "timeout must be a number"),
        ({"timeout": -1, "key": 1}, ValueError, "timeout must not be negative"),
        ({"key": 1.5}, TypeError, "key must be a str, bytes or an int, not 1.5"),
        ({"key": True}, TypeError, "key must be"),
        ({"avoid": A}, TypeError, r"avoid must be an iterable of Backend: did you mean \{Backend"),
        ({"avoid": "a:1"}, TypeError, "avoid must be an iterable of Backend, not 'a:1'"),
        ({"avoid": None}, TypeError, "avoid must be an iterable"),
        ({"avoid": 3}, TypeError, "avoid must be an iterable"),
        ({"avoid": ["a:1"]}, TypeError, "avoid: each element must be a Backend, not 'a:1'"),
        ({"avoid": [A, 3]}, TypeError, "avoid: each element must be a Backend, not 3"),
        ({"avoid": [Backend]}, TypeError, r"avoid: each element must be a Backend.*a class"),
        ({"label": 3}, TypeError, "label must be a str, not 3"),
        ({"label": b"x"}, TypeError, "label must be a str"),
    ],
)
async def test_wrong_options(
    options: dict[str, Any], kind: type[Exception], words: str, autojump_clock: MockClock
) -> None:
    """A wrong option is an error that names the argument, as soon as `claim` is called."""
    async with trio.open_nursery() as nursery, a_pool(nursery) as pool:
        with pytest.raises(kind, match=f"^{words}"):
            pool.claim(**options)


async def test_a_label_of_a_subclass(autojump_clock: MockClock) -> None:
    """A label may be of a subclass of str."""
    async with trio.open_nursery() as nursery, a_pool(nursery) as pool:
        for label in ("waits for the dial", "takes the spare"):
            async with pool.claim(label=Text(label)):
                assert [holder.label for holder in pool.holders()] == [label]
        async with pool.claim():
            assert [holder.label for holder in pool.holders()] == [None]


def a_pool(nursery: trio.Nursery) -> PoolManager[FakeConnection]:
    """A pool of one backend."""
    return open_pool(nursery, FixedResolver([A]), FakeConnector())
