"""From records to backends: RFC 2782's fields, names, weights. Pure."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeAlias, final

import attrs

from ..._model.backend import Backend, format_host_port
from .records import ROOT, Answer, Kind, Srv

#: Gives the addresses of a target that are known.
AddressesOf: TypeAlias = Callable[[str], Sequence[str]]

#: The maximum number of backends of a service. One SRV answer with thousands of ports, and one
#: target with thousands of addresses, would otherwise make millions.
MAX_BACKENDS: Final = 10_000

# Weights are multiplied so that a target's can be shared among its addresses without a
# remainder; not by more than this, above which they are rounded.
_LARGEST_SCALE = 10_000

_Tier: TypeAlias = "list[tuple[Srv, Sequence[str]]]"


def is_usable(srv: Srv) -> bool:
    """Return True if there is something to connect to.

    The target "." says that the service is not offered, and port 0 cannot be dialled.
    """
    return srv.target != ROOT and srv.port != 0


def as_nothing_if_unusable(answer: Answer) -> Answer:
    """Turn an answer whose SRV records all name nothing to connect to into "not offered"."""
    records = answer.records
    if not records or any(not isinstance(one, Srv) or is_usable(one) for one in records):
        return answer
    return attrs.evolve(answer, kind=Kind.NOT_OFFERED, records=(), hints={})


def usable(records: Iterable[Srv]) -> tuple[Srv, ...]:
    """Return the SRV records that name something to connect to, one per target and port.

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


@final
class Assembler:
    """Makes backends of records, and uses those that have not changed again.

    A large service whose addresses change all the time is assembled several times a second.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, str], Backend] = {}
        #: True if the last set was cut down to `MAX_BACKENDS`.
        self.is_cut = False

    def assemble(self, records: Iterable[Srv], addresses_of: AddressesOf) -> tuple[Backend, ...]:
        """Return the backends of `usable` records, by priority, weight, port and name.

        Each address of each target and port is a backend named ``target:port@address``. A
        target's weight is shared among its addresses: all weights of one priority are
        multiplied by the least number that makes the shares whole.
        """
        tiers: dict[int, _Tier] = defaultdict(list)
        for srv in records:
            if addresses := addresses_of(srv.target):
                tiers[srv.priority].append((srv, addresses))
        before, self._known = self._known, {}
        backends = self._backends(tiers, before)
        found = tuple(itertools.islice(backends, MAX_BACKENDS))
        self.is_cut = next(backends, None) is not None
        return found

    def _backends(
        self, tiers: dict[int, _Tier], before: dict[tuple[str, int, str], Backend]
    ) -> Iterator[Backend]:
        for _, tier in sorted(tiers.items()):
            scale = _scale(tier)
            for srv, addresses in tier:
                share = srv.weight * scale / len(addresses)
                # Rounding must not make a small weight zero, which RFC 2782 treats differently.
                weight = max(1, round(share)) if srv.weight else 0
                for address in addresses:
                    key = (srv.target, srv.port, address)
                    old = before.get(key)
                    if old is None or (old.priority, old.weight) != (srv.priority, weight):
                        old = _backend(srv, address, weight)
                    self._known[key] = old
                    yield old


def _scale(tier: _Tier) -> int:
    """Return the least factor by which each weight can be divided by its number of addresses."""
    scale = 1
    for srv, addresses in tier:
        count = len(addresses)
        scale = math.lcm(scale, count // math.gcd(srv.weight, count))
        if scale > _LARGEST_SCALE:
            return _LARGEST_SCALE
    return scale


def _backend(srv: Srv, address: str, weight: int) -> Backend:
    return Backend(
        (address, srv.port),
        name=f"{format_host_port(srv.target, srv.port)}@{address}",
        priority=srv.priority,
        weight=weight,
        target=srv.target,
    )
