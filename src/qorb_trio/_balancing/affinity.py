"""Soft affinity: a claim's key prefers certain backends, the same ones in every process."""

from __future__ import annotations

from array import array
from binascii import crc32
from collections.abc import Sequence
from hashlib import blake2b
from heapq import nlargest
from math import log
from typing import Final, Generic, TypeAlias, TypeVar, final

T = TypeVar("T")

#: Types of the ``key`` of a claim.
Key: TypeAlias = str | bytes | int

#: The number of groups of keys. A power of two, so large that backends get even parts of them,
#: and so small that the favourites of all groups can be kept.
GROUPS: Final = 2**16

#: The largest prime below 2**30: Python is quickest with integers below that.
_PRIME: Final = 2**30 - 35
#: A factor without a pattern: the digits of pi.
_FACTOR: Final = 314_159_265

#: The number of times that a multiplier goes round over all groups is about two times this.
_TURNS: Final = 2.0**26

#: Rounds a small number if it is added and subtracted again, because a float has 53 bits. This
#: takes less time than ``round()`` and ``%``.
_ROUND: Final = 1.5 * 2**52

#: The number of backends in an `Rendezvous.order`, at most, and the number of orders that are
#: kept. All are forgotten when it is reached.
FIRST_FEW: Final = 8
MOST_KEPT: Final = 1024


def plain_key(key: object) -> Key:
    """Return an argument ``key`` as an instance of str, bytes or int, not of a subclass.

    Raises:
      TypeError: if it is none of these.
    """
    if type(key) is int:
        return key
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, bytes):
        return bytes(memoryview(key))
    if isinstance(key, bool) or not isinstance(key, int):
        raise TypeError(f"key must be a str, bytes or an int, not {key!r}")
    return int.__index__(key)


def multiplier(name: str) -> float:
    """Return a hash of a backend's name from 0.5 to 1, the same in every process."""
    digest = blake2b(b"n" + name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    # A float has 53 bits. The first one is set, because the result is at least 0.5.
    return (int.from_bytes(digest, "big") >> 12 | 1 << 52) / (1 << 53)


def group_of(key: Key) -> int:
    """Return the group of a key, the same in every process.

    It is cheaper than a cryptographic hash, because each claim with a key needs it. A text or
    bytes become a number by their CRC-32, an integer by a multiplication modulo a prime. So
    ``1``, ``"1"`` and ``b"1"`` are three keys.
    """
    if type(key) is int:
        return key * _FACTOR % _PRIME >> 14
    if type(key) is str:
        return crc32(key.encode("utf-8", "surrogatepass")) >> 16
    assert type(key) is bytes
    return crc32(key, 1) >> 16


def _number(group: int) -> float:
    """Return the number of a group, from 2**24 to 2**28.

    Without the square, groups that count up would favour some backends.
    """
    root = group / GROUPS + 0.5
    return root * root * _TURNS


def draws(group: int, multipliers: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Return a number for each backend; a group of keys prefers that with the greatest.

    That is u, or log(u) / weight with unequal weights, where u is a random number for each pair
    of group and backend.
    """
    number, found = _number(group), []
    for each in multipliers:
        draw = number * each
        draw -= draw + _ROUND - _ROUND
        # The last summand keeps u above 0, and is lost in all but the least of them.
        found.append(draw + 0.5 + 2.0**-60)
    if weights.count(weights[0]) < len(weights):
        found = [log(u) / weight for u, weight in zip(found, weights, strict=True)]
    return found


@final
class Rendezvous(Generic[T]):
    """The choice between some backends by a key: weighted rendezvous hashing.

    Each pair of key and backend has a random number u from 0 to 1, drawn by hashing. The
    backend with the least -ln(u) / weight is preferred. So each backend is preferred by a
    part of the keys in proportion to its weight. Without one backend only its keys move, each
    to its own second choice. (Thaler and Ravishankar, "Using Name-Based Mappings to Increase
    Hit Rates", 1998; weights: Schindler and Schomaker, "Weighted distributed hash tables",
    2005.)

    To find the preferred backend is proportional to the number of backends, because it depends
    on all of them. So keys are hashed into `GROUPS` groups, and what a group prefers is found
    once. A draw is the fractional part of the group's number times the backend's `multiplier`
    (Knuth, "The Art of Computer Programming", volume 3, section 6.4: multiplicative hashing).
    Floats are multiplied and rounded alike on every platform that has those of IEEE 754.
    """

    __slots__ = ("_favourites", "_items", "_multipliers", "_orders", "_weights")

    def __init__(
        self, items: Sequence[T], multipliers: Sequence[float], weights: Sequence[float]
    ) -> None:
        #: What stands for the backends.
        self._items: Sequence[T] = items
        self._multipliers: Sequence[float] = multipliers
        self._weights: Sequence[float] = weights
        #: By group, the position of the favourite counted from the end; 0 if it is not known.
        few = len(items) <= 2**15
        self._favourites: array[int] = array("h" if few else "l", [0]) * GROUPS
        self._orders: dict[int, Sequence[T]] = {}

    def find(self, key: Key) -> T:
        """Return the item of the backend that a key prefers."""
        if type(key) is int:
            # As `group_of`, whose call would take as long as all the rest.
            group = key * _FACTOR % _PRIME >> 14
        else:
            group = group_of(key)
        return self._items[self._favourites[group] or self._find(group)]

    def _find(self, group: int) -> int:
        found = draws(group, self._multipliers, self._weights)
        position = found.index(max(found)) - len(found)
        self._favourites[group] = position
        return position

    def order(self, key: Key) -> Sequence[T]:
        """Return the items of the first few backends that a key prefers, in order."""
        group = group_of(key)
        order = self._orders.get(group)
        if order is None:
            if len(self._orders) >= MOST_KEPT:
                self._orders.clear()
            found = draws(group, self._multipliers, self._weights)
            best = nlargest(FIRST_FEW, range(len(found)), key=found.__getitem__)
            self._orders[group] = order = [self._items[i] for i in best]
        return order
