"""Many workers that send requests to a real server, and what that costs."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter, process_time
from typing import TypeAlias, final

import attrs
import trio

from _contestant import Contestant
from _runner import Goal, Report, Sampler

#: Sends one request, numbered by its worker and its turn, and checks the answer.
Request: TypeAlias = Callable[[int, int], Awaitable[None]]

OURS = "qorb_trio"
WORKERS = 32
CONNECTIONS = 8


@final
@attrs.frozen
class Figures:
    """The cost of some requests."""

    #: Microseconds of time for each request, of all workers together.
    time: float
    #: Microseconds of CPU time of the client for each request.
    cpu: float
    #: Milliseconds within which 99 % of the requests were answered.
    p99: float


def figures(begin: float, cpu: float, latencies: list[float]) -> Figures:
    """Return the figures of a load that began at some time, and with some CPU time used."""
    count = len(latencies)
    latencies.sort()
    return Figures(
        time=(perf_counter() - begin) / count * 1e6,
        cpu=(process_time() - cpu) / count * 1e6,
        p99=latencies[count * 99 // 100] * 1e3,
    )


async def trio_load(request: Request, requests: int) -> Figures:
    """Let the workers send some requests, in Trio."""
    latencies: list[float] = []

    async def worker(number: int) -> None:
        for turn in range(requests // WORKERS):
            sent = perf_counter()
            await request(number, turn)
            latencies.append(perf_counter() - sent)

    begin, cpu = perf_counter(), process_time()
    async with trio.open_nursery() as nursery:
        for number in range(WORKERS):
            nursery.start_soon(worker, number)
    return figures(begin, cpu, latencies)


def with_peer(
    peer: Contestant | None, ours: Callable[[], Awaitable[Figures]], **order: object
) -> dict[str, Callable[[], Awaitable[Figures]]]:
    """Return the contenders of a comparison: this pool, and before it a peer if there is one."""
    if peer is None:
        return {OURS: ours}

    async def theirs() -> Figures:
        answer = await peer.ask(**order)
        assert isinstance(answer, dict)
        return Figures(**answer)

    return {peer.name: theirs, OURS: ours}


async def compare(
    report: Report,
    what: str,
    contenders: Mapping[str, Callable[[], Awaitable[Figures]]],
    goals: Mapping[str, Goal],
) -> None:
    """Compare the time of all contenders, and then the CPU time and the p99 of the same runs."""
    taken: dict[str, deque[Figures]] = {name: deque() for name in contenders}

    def time_of(name: str) -> Sampler:
        async def sample() -> float:
            one = await contenders[name]()
            taken[name].append(one)
            return one.time

        return sample

    def later(name: str, figure: str) -> Sampler:
        async def sample() -> float:
            taken[name].rotate(-1)
            value: float = getattr(taken[name][-1], figure)
            return value

        return sample

    rounds = 5
    load = f"{what}, {WORKERS} workers, {CONNECTIONS} connections"
    timers = {name: time_of(name) for name in contenders}
    await report.compare(f"{load}: time", "µs", timers, rounds=rounds, goals=goals)
    for figure, unit in (("cpu", "µs"), ("p99", "ms")):
        samplers = {name: later(name, figure) for name in contenders}
        await report.compare(f"{load}: {figure}", unit, samplers, rounds=rounds)
