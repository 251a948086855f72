"""Many workers that send requests to a real server, and what that costs."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from time import perf_counter, process_time
from typing import TypeAlias, final

import attrs
import trio

from _contestant import Contestant
from _runner import Goal, Report, Sampler, times

#: Sends one request, numbered by its worker and its turn, and checks the answer.
Request: TypeAlias = Callable[[int, int], Awaitable[None]]

OURS = "qorb_trio"
WORKERS = 32
CONNECTIONS = 8
ROUNDS = 5
UNITS = {"time": "µs", "cpu": "µs", "p99": "ms", "longest": "ms"}
#: The part of the rate that the slowest contender has reached, at which latencies are compared.
SHARE = 0.7


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
    #: Milliseconds that the slowest request took.
    longest: float


def figures(begin: float, cpu: float, latencies: list[float]) -> Figures:
    """Return the figures of a load that began at some time, and with some CPU time used."""
    count = len(latencies)
    latencies.sort()
    return Figures(
        time=(perf_counter() - begin) / count * 1e6,
        cpu=(process_time() - cpu) / count * 1e6,
        p99=latencies[count * 99 // 100] * 1e3,
        longest=latencies[-1] * 1e3,
    )


def arrivals(requests: int, rate: float) -> Iterator[float]:
    """Return when each request is due, in seconds: at random, at some rate, but always alike."""
    rng = random.Random(0)
    return accumulate(rng.expovariate(rate) for _ in range(requests))


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


async def trio_offered(request: Request, requests: int, rate: float) -> Figures:
    """Send requests when they are due, in Trio. A latency counts from when a request is due."""
    latencies: list[float] = []

    async def one(number: int, due: float) -> None:
        await request(number % WORKERS, number)
        latencies.append(perf_counter() - due)

    begin, cpu = perf_counter(), process_time()
    async with trio.open_nursery() as nursery:
        for number, after in enumerate(arrivals(requests, rate)):
            due = begin + after
            if (left := due - perf_counter()) > 0:
                await trio.sleep(left)
            nursery.start_soon(one, number, due)
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
    *,
    judges_p99: bool = True,
) -> float:
    """Compare what the same requests cost all contenders, and how long they took.

    Args:
      report: takes the figures.
      what: the request.
      contenders: each sends the requests once.
      goals: the targets for the time. Where there is one, the p99 must not be worse, either.
      judges_p99: False where the peer serves some workers again and again, and the others hardly
        ever. Then few requests wait for long, and `compare_offered` judges the p99.

    Returns:
      the rate that the slowest of them has reached, in requests/s.
    """
    load = f"{what}, {WORKERS} workers, {CONNECTIONS} connections"
    targets = {"time": goals, "p99": dict.fromkeys(goals if judges_p99 else (), times(1))}
    await _compare(report, load, contenders, ("time", "cpu", "p99", "longest"), targets)
    costs = [row.median for row in report.rows if row.question == f"{load}: time"]
    return 1e6 / max(costs)


async def compare_offered(
    report: Report,
    what: str,
    rate: float,
    contenders: Mapping[str, Callable[[], Awaitable[Figures]]],
) -> None:
    """Compare how long requests take that come at one rate, whether or not others are answered."""
    load = f"{what}, {rate:,.0f} requests/s, {CONNECTIONS} connections"
    await _compare(report, load, contenders, ("p99", "longest"), {"p99": {OURS: times(1)}})


async def _compare(
    report: Report,
    load: str,
    contenders: Mapping[str, Callable[[], Awaitable[Figures]]],
    wanted: Sequence[str],
    targets: Mapping[str, Mapping[str, Goal]],
) -> None:
    """Compare several figures of the same runs."""
    taken: dict[str, deque[Figures]] = {name: deque() for name in contenders}

    def first(name: str) -> Sampler:
        async def sample() -> float:
            taken[name].append(await contenders[name]())
            return value(taken[name][-1], wanted[0])

        return sample

    def later(name: str, figure: str) -> Sampler:
        async def sample() -> float:
            taken[name].rotate(-1)
            return value(taken[name][-1], figure)

        return sample

    for figure in wanted:
        samplers = {
            name: first(name) if figure == wanted[0] else later(name, figure) for name in contenders
        }
        goals = targets.get(figure)
        question, unit = f"{load}: {figure}", UNITS[figure]
        await report.compare(question, unit, samplers, rounds=ROUNDS, goals=goals)


def value(one: Figures, figure: str) -> float:
    """Return one of the figures."""
    number: float = getattr(one, figure)
    return number
