"""Soft affinity: a claim's key prefers certain backends, the same ones in every process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from math import log
from struct import Struct
from typing import Final, TypeAlias, final

#: Types of the ``key`` of a claim.
Key: TypeAlias = str | bytes | int

_BITS: Final = 64
_MASK: Final = (1 << _BITS) - 1

#: The first prime after pi * 2**125, which has 127 bits and no pattern.
_PRIME: Final = 0x6487ED5110B4611A62633145C06E0EB9
_PRIME_BITS: Final = 127
#: Lets a number and its negative have different squares.
_OFFSET: Final = _PRIME // 3


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


def name_seed(name: str) -> int:
    """Return a hash of a backend's name in 64 bits, the same in every process."""
    return _hash(b"n" + name.encode("utf-8", "surrogatepass")) & _MASK


def _hash(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=16).digest(), "big")


#: A factor for each type, so that ``1``, ``"1"`` and ``b"1"`` are three keys.
_FACTORS: Final = {kind: _hash(kind.__name__.encode()) for kind in (str, bytes, int)}


def _key_hash(key: Key) -> int:
    """Return a hash of a key in 64 bits, the same in every process.

    It is cheaper than a cryptographic hash, because each claim with a new key needs one: the key
    as a number, times a factor, modulo a prime (Carter and Wegman, "Universal Classes of Hash
    Functions", 1979). Without the square, keys that count up would favour some backends.
    """
    if isinstance(key, int):
        number = key
    else:
        data = key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key
        number = int.from_bytes(data, "big")
    spread = (number * _FACTORS[type(key)] + _OFFSET) % _PRIME
    return spread * spread % _PRIME >> _PRIME_BITS - _BITS


@lru_cache(maxsize=16)
def _layout(count: int) -> Struct:
    """Return the layout of some numbers of 64 bits with as much room after each."""
    return Struct("<" + "Q8x" * count)


@final
class Rendezvous:
    """The choice between some backends by a key: weighted rendezvous hashing.

    Each pair of key and backend has a random number u from 0 to 1, drawn by hashing. The
    backend with the least -ln(u) / weight is preferred. So each backend is preferred by a
    part of the keys in proportion to its weight. Without one backend only its keys move, each
    to its own second choice. (Thaler and Ravishankar, "Using Name-Based Mappings to Increase
    Hit Rates", 1998; weights: Schindler and Schomaker, "Weighted distributed hash tables",
    2005.)

    `seeds` are the backends' `name_seed`. The cost is proportional to their number, because
    the choice depends on all of them, and the backends that have a spare change from claim
    to claim. To keep it low, all backends are hashed in one multiplication of long numbers.
    """

    __slots__ = ("_layout", "_seeds", "_weights")

    def __init__(self, seeds: Sequence[int], weights: Sequence[float]) -> None:
        self._layout: Struct = _layout(len(seeds))
        self._seeds: int = int.from_bytes(self._layout.pack(*seeds), "little")
        is_even = weights.count(weights[0]) == len(weights)
        self._weights: Sequence[float] | None = None if is_even else weights

    def find(self, key: Key) -> int:
        """Return the position of the backend that a key prefers."""
        # Multiplication by a random odd number spreads the seeds evenly (Dietzfelbinger et al.,
        # "A Reliable Randomized Algorithm for the Closest-Pair Problem", 1997). Only the upper
        # bits of the 64 are well mixed, and only they matter here. Both factors have 64 bits, so
        # the product of one backend does not reach that of the next.
        products = self._seeds * (_key_hash(key) | 1)
        layout = self._layout
        draws = layout.unpack(products.to_bytes(layout.size, "little"))
        weights = self._weights
        if weights is None:
            return draws.index(max(draws))
        # The half keeps u above 0. A float has 53 bits, so it may become 1, which does no harm.
        scores = [log((u + 0.5) / (1 << _BITS)) / w for u, w in zip(draws, weights, strict=True)]
        return scores.index(max(scores))
