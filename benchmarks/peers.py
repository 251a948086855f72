"""What does a claim cost with other pools?

All pools do the same work, with simulated connections. In the first comparisons one task
claims and releases alone, with few and with many idle connections. In the others many tasks
want few connections, each for one turn of the event loop. Pools for asyncio and for Node run
in processes of their own, and are measured in turn. Pools that are not installed are left out.
"""

from __future__ import annotations

import shutil
from contextlib import AsyncExitStack

import _contestant
from _pools import limiter, qorb
from _runner import Report, Sampler, run
from _work import ENOUGH, Lend, warm_claims
from contention import crowd

FEW = 16
MANY = 1000
OURS = "qorb_trio"


class Trio:
    """A contender in the benchmark's own event loop, with the face of a `Contestant`."""

    def __init__(self, lends: dict[int, Lend]) -> None:
        self._lends = lends

    def warm_claims(self, *, slots: int, enough: float) -> Sampler:
        """See `_work.warm_claims`."""
        return lambda: warm_claims(self._lends[slots], enough=enough)

    def crowd(self, *, slots: int, tasks: int, claims: int) -> Sampler:
        """See `contention.crowd`."""
        return crowd(self._lends[slots], tasks=tasks, claims=claims)


async def enter_all(
    stack: AsyncExitStack, counts: tuple[int, ...], *, quick: bool
) -> dict[str, Trio | _contestant.Contestant]:
    """All that are here, ours first."""
    contenders: dict[str, Trio | _contestant.Contestant] = {
        OURS: Trio({n: await stack.enter_async_context(qorb(slots_each=n)) for n in counts}),
        "trio.CapacityLimiter": Trio(
            {n: await stack.enter_async_context(limiter(n)) for n in counts}
        ),
    }
    if _contestant.installed("httpcore"):
        from adapters import httpcore_trio

        contenders[httpcore_trio.VERSION] = Trio(
            {n: await stack.enter_async_context(httpcore_trio.full_pool(n)) for n in counts}
        )
    for command in _contestant.asyncio_contestants():
        it = await stack.enter_async_context(_contestant.contestant(command, _contestant.HERE))
        contenders[it.name] = it
    if quick:
        _contestant.leave_out("cueball", "there is no time to fetch it")
    elif (folder := stack.enter_context(_contestant.folder_with_cueball())) is not None:
        command = [shutil.which("node") or "node", "cueball.js"]
        it = await stack.enter_async_context(_contestant.contestant(command, folder))
        contenders[it.name] = it
    return contenders


async def measure(report: Report) -> None:
    """Everybody, three times."""
    enough = 0.0 if report.quick else ENOUGH
    async with AsyncExitStack() as stack:
        counts = (FEW, report.size(MANY, 32))
        contenders = await enter_all(stack, counts, quick=report.quick)
        for slots in counts:
            await report.compare(
                f"warm claim, {slots:,} connections",
                "µs",
                {
                    name: it.warm_claims(slots=slots, enough=enough)
                    for name, it in contenders.items()
                },
                rounds=11,
            )
        for tasks, claims, rounds in ((100, 4, 7), (1000, 20, 5)):
            if tasks > report.size(tasks, 100):
                continue
            await report.compare(
                f"{tasks:,} tasks x {claims} claims, {FEW} connections",
                "µs/claim",
                {
                    name: it.crowd(slots=FEW, tasks=tasks, claims=claims)
                    for name, it in contenders.items()
                    if tasks < MANY or not name.startswith("httpcore")  # would take it minutes
                },
                rounds=rounds,
            )


if __name__ == "__main__":
    run(__doc__, measure)
