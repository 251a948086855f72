"""Simple models of how other pools choose their backends. Pure.

Each model is a small policy, not the original: where the connections of each client are, at a
time. `qorb` takes the backends in the resolver's order, the same in every client. `cueball`
shuffles them once a minute. gRPC's `round_robin` connects every client to every backend.
Finagle's aperture is a fixed part of a ring, and is computed anew when the set changes.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import TypeAlias

from .fleet import Size
from .measures import spread

SLOTS = 16

#: Returns the backends to which a client is connected, given the numbers of those that are
#: known, the client, the number of clients, and the minute.
Model: TypeAlias = Callable[[Sequence[int], int, Size, int], list[int]]


def in_step(known: Sequence[int], client: int, size: Size, minute: int) -> list[int]:
    """Take the first backends of the set, as qorb does."""
    return [known[i % len(known)] for i in range(SLOTS)]


def shuffled(known: Sequence[int], client: int, size: Size, minute: int) -> list[int]:
    """Take the first backends of an order that is drawn anew each minute, as cueball does."""
    rng = random.Random(f"{size.seed} {client} {minute}")
    return rng.sample(known, min(SLOTS, len(known)))


def everything(known: Sequence[int], client: int, size: Size, minute: int) -> list[int]:
    """Take all backends, as gRPC's `round_robin` does."""
    return list(known)


def aperture(known: Sequence[int], client: int, size: Size, minute: int) -> list[int]:
    """Take the client's part of a ring, as Finagle's deterministic aperture does."""
    first = client * len(known) // size.clients
    return [known[(first + i) % len(known)] for i in range(min(SLOTS, len(known)))]


MODELS: dict[str, Model] = {
    "qorb (in step)": in_step,
    "cueball (shuffled each minute)": shuffled,
    "gRPC round_robin (everything)": everything,
    "Finagle (aperture)": aperture,
}


def places(model: Model, known: Sequence[int], size: Size, minute: int = 0) -> list[list[int]]:
    """Return the backends of each client."""
    return [model(known, client, size, minute) for client in range(size.clients)]


def counts(chosen: Sequence[Sequence[int]], backends: int) -> list[int]:
    """Return the number of connections of each backend."""
    found = [0] * backends
    for mine in chosen:
        for backend in mine:
            found[backend] += 1
    return found


def moved(before: Sequence[Sequence[int]], after: Sequence[Sequence[int]]) -> float:
    """Return how many connections a client closes on average to get from one to the other."""
    pairs = zip(before, after, strict=True)
    return sum(len({*old} - {*new}) for old, new in pairs) / len(before)


def cold_start(model: Model, size: Size) -> dict[str, float]:
    """Return the figures of a cold start."""
    found = counts(places(model, range(size.backends), size), size.backends)
    return {
        "busiest backend / mean": spread(found),
        "connections per client": sum(found) / size.clients,
        "connections of the busiest backend": max(found),
    }


def third_lost(model: Model, size: Size) -> dict[str, float]:
    """Return the figures after a loss of a third of the backends that the resolver still sends.

    A model whose part of the backends is fixed loses the connections to those that are lost.
    The others take the next backends of their order.
    """
    known = range(size.backends)
    living = [backend for backend in known if backend % 3]
    if model is aperture:
        lost = {*known} - {*living}
        chosen = [[b for b in mine if b not in lost] for mine in places(model, known, size)]
    else:
        chosen = places(model, living, size)
    found = counts(chosen, size.backends)
    # The claims of a client go to the backends that it has left.
    load = [0.0] * size.backends
    for mine in chosen:
        for backend in mine:
            load[backend] += 1 / len(mine)
    fair = size.clients / len(living)
    return {
        "busiest survivor / mean": spread([found[backend] for backend in living]),
        "claims of the busiest survivor / fair": max(load) / fair,
        "% of the connections left": 100
        * sum(found)
        / sum(counts(places(model, known, size), size.backends)),
    }


def doubled(model: Model, size: Size) -> dict[str, float]:
    """Return the figures of ten minutes after the number of backends was doubled."""
    old = range(0, size.backends, 2)
    before = places(model, old, size, 0)
    steps = [before, *(places(model, range(size.backends), size, m) for m in range(1, 11))]
    closed = [moved(first, second) for first, second in itertools.pairwise(steps)]
    found = counts(steps[-1], size.backends)
    return {
        "% on the new half after 10 minutes": 100 * sum(found[1::2]) / sum(found),
        "closed per client in the first minute": closed[0],
        "closed per client and minute, mean": sum(closed) / len(closed),
    }


def restart_all(model: Model, size: Size) -> dict[str, float]:
    """Return the dials of the busiest backend if all clients dial within one second."""
    found = counts(places(model, range(size.backends), size), size.backends)
    return {"dials of a backend in a second, worst": max(found)}


#: The scenarios that the models can play.
STORIES = {
    "cold-start": cold_start,
    "restart-all": restart_all,
    "third-lost": third_lost,
    "doubled": doubled,
}


def compare(name: str, size: Size) -> dict[str, dict[str, float]]:
    """Return the figures of each model in a scenario; empty if the models cannot play it."""
    if name not in STORIES:
        return {}
    return {who: STORIES[name](model, size) for who, model in MODELS.items()}
