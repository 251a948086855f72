"""Soft affinity: a claim's key prefers certain backends, the same ones in every process."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from math import log
from typing import TypeAlias

#: Types of the ``key`` of a claim.
Key: TypeAlias = str | bytes | int

_BITS = 64
_MASK = (1 << _BITS) - 1


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


def _key_hash(key: Key) -> int:
    """Return a hash of a key in 128 bits, the same in every process.

    Keys of different types differ: ``1``, ``"1"`` and ``b"1"`` are three keys.
    """
    if isinstance(key, int):
        return _hash(b"i%x" % key)
    if isinstance(key, str):
        return _hash(b"s" + key.encode("utf-8", "surrogatepass"))
    return _hash(b"b" + key)


def _hash(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=16).digest(), "big")


def preferred(seeds: Sequence[int], weights: Sequence[float], key: Key) -> int:
    """Return the position of the backend that a key prefers: weighted rendezvous hashing.

    Each pair of key and backend has a random number u from 0 to 1, drawn by hashing. The
    backend with the least -ln(u) / weight is preferred. So each backend is preferred by a
    part of the keys in proportion to its weight. Without one backend only its keys move, each
    to its own second choice. (Thaler and Ravishankar, "Using Name-Based Mappings to Increase
    Hit Rates", 1998; weights: Schindler and Schomaker, "Weighted distributed hash tables",
    2005.)

    `seeds` are the backends' `name_seed`. The cost is proportional to their number, because
    the choice depends on all of them, and the backends that have a spare change from claim
    to claim.
    """
    multiplier, mask = divmod(_key_hash(key), 1 << _BITS)
    multiplier |= 1
    # Multiplication by a random odd number spreads the seeds evenly (Dietzfelbinger et al.,
    # "A Reliable Randomized Algorithm for the Closest-Pair Problem", 1997). Only its upper
    # bits are well mixed, and only they matter here.
    draws = [(seed ^ mask) * multiplier & _MASK for seed in seeds]
    if weights.count(weights[0]) == len(weights):
        return draws.index(max(draws))
    # The half keeps u above 0. A float has 53 bits, so it may become 1, which does no harm.
    scores = [log((u + 0.5) / (1 << _BITS)) / w for u, w in zip(draws, weights, strict=True)]
    return scores.index(max(scores))
