"""`Snapshot`: the parts of a message that are the same for all clients. No I/O here.

docs/observability.md has a table of all keys. The first five keys of a set are those of qorb's
own qtop, so that either program can watch what the other serves.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias, final

import attrs

from .. import BackendStats, Holder, PoolStats
from ._recorder import describe

#: The maximum number of holders in a message: the oldest.
HOLDERS: Final = 100

#: The median and the 99th percentile of waits, in seconds; `None` without a recent claim.
Waits: TypeAlias = "tuple[float, float] | None"

encode: Final = json.JSONEncoder(separators=(",", ":")).encode


@final
@attrs.frozen
class Snapshot:
    """The state of all pools at one time. Snapshots are numbered from 1."""

    number: int
    time: float
    sets: str
    """The sets of slots as JSON, without the outer braces."""
    pools: list[dict[str, object]]
    holders: list[dict[str, object]]

    @property
    def claims(self) -> int:
        """The number of claims granted so far, in all pools."""
        return sum(claims for it in self.pools if isinstance(claims := it["claims"], int))


def pool_part(
    label: str,
    stats: PoolStats,
    waits: Waits,
    *,
    held: int,
    max_slots: int,
    is_suspended: bool,
) -> dict[str, object]:
    """Return what a message says of one pool."""
    trouble = getattr(stats.resolution, "trouble", None)
    return {
        "name": label,
        "claims": stats.claims,
        "waiting": stats.waiting,
        "slots": stats.slots,
        "max_slots": max_slots,
        "departed": stats.departed,
        "backends": len(stats.backends),
        "wait_p50": waits and waits[0],
        "wait_p99": waits and waits[1],
        "held": held,
        "shed": stats.shed,
        "known": stats.known,
        "trouble": trouble if isinstance(trouble, str) else None,
        "suspended": is_suspended,
    }


def set_part(pool: str, stats: BackendStats, waits: Waits, now: float) -> str:
    """Return what a message says of one backend, in JSON; `pool` is JSON already.

    The text is written by hand, because building and encoding dicts takes four times as long.
    """
    error, until = stats.last_error, stats.ejected_until
    return (
        f'{{"connecting_slots":{stats.connecting}'
        f',"unclaimed_slots":{stats.unclaimed}'
        f',"checking_slots":{stats.checking}'
        f',"claimed_slots":{stats.claimed}'
        f',"total_claims":{stats.total_claims}'
        f',"closing_slots":{stats.closing}'
        f',"wanted_slots":{stats.wanted}'
        f',"online":{"true" if stats.online else "false"}'
        f',"failures":{stats.failures}'
        f',"last_error":{"null" if error is None else encode(describe(error))}'
        f',"wait_p50":{"null" if waits is None else waits[0]}'
        f',"wait_p99":{"null" if waits is None else waits[1]}'
        f',"pool":{pool}'
        f',"backend":{encode(stats.backend.name)}'
        f',"failed_claims":{stats.failed_claims}'
        f',"stale":{stats.stale}'
        f',"retiring":{stats.retiring}'
        f',"ejected_for":{"null" if until is None else max(0.0, until - now)}}}'
    )


def holders_part(holders: Mapping[str, Sequence[Holder]]) -> list[dict[str, object]]:
    """Return what a message says of the oldest holders of all pools together."""
    every = ((label, it) for label, found in holders.items() for it in found)
    return [
        {
            "pool": label,
            "id": it.slot_id,
            "backend": it.backend.name,
            "since": it.since,
            "age": it.age,
            "task": it.task,
        }
        for label, it in heapq.nsmallest(HOLDERS, every, key=lambda pair: pair[1].since)
    ]
