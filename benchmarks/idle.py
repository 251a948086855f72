"""What share of a processor does an idle pool take?

The pool has a thousand backends with four slots each, and the intervals of the default
policy. It is idle for ten minutes of Trio's mock clock, which skips the waits. In this time
all periodic work falls due: twenty health checks of each connection, if the connector has
one, and ten rebalances. It is then idle for some seconds of the real clock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from time import process_time, thread_time

import trio
import trio.testing

from _pools import NoConnection, NoopConnector, full_pool
from _runner import Goal, Report, run

#: Seconds by the real clock, and by the mock clock.
REAL, SIMULATED = 3, 600


class CheckedConnector(NoopConnector):
    """A connector with a health check, like one for real connections."""

    async def is_valid(self, conn: NoConnection) -> bool:
        """At once."""
        return True


async def share(
    opened: Callable[[], AbstractAsyncContextManager[object]],
    clock: Callable[[], float],
    seconds: float,
) -> float:
    """Percent of a processor."""
    async with opened():
        await trio.testing.wait_all_tasks_blocked()
        begin = clock()
        await trio.sleep(seconds)
        return (clock() - begin) / seconds * 100


async def simulated(program: Callable[[], Awaitable[float]]) -> float:
    """Run it under a mock clock, in a thread of its own."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    return await trio.to_thread.run_sync(partial(trio.run, program, clock=clock))


async def measure(report: Report) -> None:
    """With nothing to check, and with health checks."""
    backends = report.size(1000, 5)

    def opened(connector: NoopConnector) -> Callable[[], AbstractAsyncContextManager[object]]:
        return partial(full_pool, backends=backends, slots_each=4, connector=connector)

    plain, checked = opened(NoopConnector()), opened(CheckedConnector())
    names = ("nothing to check", "health checks")
    await report.compare(
        "idle, 10 simulated minutes",
        "%",
        {
            name: partial(simulated, partial(share, it, thread_time, SIMULATED))
            for name, it in zip(names, (plain, checked), strict=True)
        },
        rounds=3,
        goals=dict.fromkeys(names, Goal(1)),
    )
    await report.compare(
        "idle, 3 seconds",
        "%",
        {names[0]: partial(share, plain, process_time, report.size(REAL * 100, 1) / 100)},
        rounds=3,
        goals={names[0]: Goal(1)},
    )


if __name__ == "__main__":
    run(__doc__, measure)
