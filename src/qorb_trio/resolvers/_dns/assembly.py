"""From records to backends: RFC 2782's fields, names, weights. Pure functions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import attrs

from ..._model.backend import Backend, format_host_port
from .records import ROOT, Answer, Kind, Srv

#: Gives the addresses of a target that are known.
AddressesOf: TypeAlias = Callable[[str], Sequence[str]]

# Weights are multiplied so that a target's can be shared among its addresses without a
# remainder; not by more than this, above which they are rounded.
_LARGEST_SCALE = 10_000


def is_usable(srv: Srv) -> bool:
    """Whether there is something to connect to.

    The target "." says that the service is not offered, and port 0 cannot be dialled.
    """
    return srv.target != ROOT and srv.port != 0


def as_nothing_if_unusable(answer: Answer) -> Answer:
    """SRV records of which none can be connected to are as good as none at all."""
    records = answer.records
    if not records or any(not isinstance(one, Srv) or is_usable(one) for one in records):
        return answer
    return attrs.evolve(answer, kind=Kind.NOT_OFFERED, records=(), hints={})


def usable(records: Iterable[Srv]) -> tuple[Srv, ...]:
    """The SRV records that name something to connect to, one per target and port.

    Of one target and port under two priorities the lower counts; twice under one
    priority, the weights add up.
    """
    weights: dict[tuple[str, int], dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for srv in set(records):
        if is_usable(srv):
            weights[srv.target, srv.port][srv.priority] += srv.weight
    return tuple(
        sorted(
            Srv(*min(by_priority.items()), port, target)
            for (target, port), by_priority in weights.items()
        )
    )


def assemble(records: Iterable[Srv], addresses_of: AddressesOf) -> tuple[Backend, ...]:
    """The backends of `usable` records, in the order of priority, weight, port and name.

    Each address of each target and port is a backend named ``target:port@address``. A
    target's weight is shared among its addresses: all weights of one priority are
    multiplied by the least number that makes the shares whole.
    """
    tiers: dict[int, list[tuple[Srv, Sequence[str]]]] = defaultdict(list)
    for srv in records:
        if addresses := addresses_of(srv.target):
            tiers[srv.priority].append((srv, addresses))
    return tuple(
        backend
        for _, tier in sorted(tiers.items())
        for backend in _backends_of_tier(tier, _scale(tier))
    )


def _scale(tier: Iterable[tuple[Srv, Sequence[str]]]) -> int:
    """The least factor by which each weight can be divided by its number of addresses."""
    scale = 1
    for srv, addresses in tier:
        count = len(addresses)
        scale = math.lcm(scale, count // math.gcd(srv.weight, count))
        if scale > _LARGEST_SCALE:
            return _LARGEST_SCALE
    return scale


def _backends_of_tier(tier: Iterable[tuple[Srv, Sequence[str]]], scale: int) -> Iterable[Backend]:
    for srv, addresses in tier:
        share = srv.weight * scale / len(addresses)
        # Rounding must not make a small weight zero, which RFC 2782 treats differently.
        weight = max(1, round(share)) if srv.weight else 0
        for address in addresses:
            yield Backend(
                (address, srv.port),
                name=backend_name(srv.target, srv.port, address),
                priority=srv.priority,
                weight=weight,
            )


def backend_name(target: str, port: int, address: str) -> str:
    """``target:port@address``: what people and statistics call the backend."""
    return f"{format_host_port(target, port)}@{address}"
