"""Soft affinity: a claim's key prefers certain backends, the same ones in every process."""

from __future__ import annotations

from binascii import crc32
from collections.abc import Sequence
from hashlib import blake2b
from math import log
from typing import Final, TypeAlias, final

#: Types of the ``key`` of a claim.
Key: TypeAlias = str | bytes | int

#: The largest prime below 2**30: Python is quickest with integers below that.
_PRIME: Final = 2**30 - 35
_TO_ONE: Final = 1 / _PRIME
#: A factor without a pattern: the digits of pi.
_FACTOR: Final = 314_159_265

#: The beginnings of three overlapping ranges, so that ``1``, ``"1"`` and ``b"1"`` are three keys.
_STR, _BYTES, _INT = 0.5, 0.6, 0.7

#: The number of times that a multiplier goes round while a key's number grows by about one.
_TURNS: Final = 2.0**26

#: Rounds a small number if it is added and subtracted again, because a float has 53 bits. This
#: takes less time than ``round()`` and ``%``.
_ROUND: Final = 1.5 * 2**52


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


def _key_number(key: Key) -> float:
    """Return a hash of a key, the same in every process: a number from 2**24 to 2**28.

    It is cheaper than a cryptographic hash, because each claim with a new key needs one. A text
    or bytes become a number by their CRC-32, an integer by a multiplication modulo a prime.
    Without the square, keys that count up would favour some backends.
    """
    if type(key) is int:
        number = key * _FACTOR % _PRIME * _TO_ONE + _INT
    elif type(key) is str:
        number = crc32(key.encode("utf-8", "surrogatepass")) * 2.0**-32 + _STR
    else:
        assert type(key) is bytes
        number = crc32(key) * 2.0**-32 + _BYTES
    return number * number * _TURNS


@final
class Rendezvous:
    """The choice between some backends by a key: weighted rendezvous hashing.

    Each pair of key and backend has a random number u from 0 to 1, drawn by hashing. The
    backend with the least -ln(u) / weight is preferred. So each backend is preferred by a
    part of the keys in proportion to its weight. Without one backend only its keys move, each
    to its own second choice. (Thaler and Ravishankar, "Using Name-Based Mappings to Increase
    Hit Rates", 1998; weights: Schindler and Schomaker, "Weighted distributed hash tables",
    2005.)

    The cost is proportional to the number of backends, because the choice depends on all of
    them, and the backends that have a spare change from claim to claim. To keep it low, a draw
    is the fractional part of the key's number times the backend's `multiplier` (Knuth, "The Art
    of Computer Programming", volume 3, section 6.4: multiplicative hashing). Floats are
    multiplied and rounded alike on every platform that has those of IEEE 754.
    """

    __slots__ = ("_multipliers", "_weights")

    def __init__(self, multipliers: Sequence[float], weights: Sequence[float]) -> None:
        self._multipliers: Sequence[float] = multipliers
        is_even = weights.count(weights[0]) == len(weights)
        self._weights: Sequence[float] | None = None if is_even else weights

    def find(self, key: Key) -> int:
        """Return the position of the backend that a key prefers."""
        number = _key_number(key)
        if self._weights is not None:
            return self._find_by_weight(number, self._weights)
        # With equal weights, the greatest u is preferred. Here it is from -0.5 to 0.5.
        most, found, whole = -1.0, 0.0, _ROUND
        for each in self._multipliers:
            draw = number * each
            draw -= draw + whole - whole
            if draw > most:
                most = draw
                found = each
        return self._multipliers.index(found)

    def _find_by_weight(self, number: float, weights: Sequence[float]) -> int:
        scores = []
        for each, weight in zip(self._multipliers, weights, strict=True):
            draw = number * each
            draw -= draw + _ROUND - _ROUND
            # The last summand keeps u above 0, and is lost in all but the least of them.
            scores.append(log(draw + 0.5 + 2.0**-60) / weight)
        return scores.index(max(scores))
