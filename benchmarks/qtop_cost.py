"""What does qtop cost the program that is watched?

The pool has 1,000 backends. One client, in a process of its own, receives an update every
second. The result is the processor time of the watched process, in percent of a core, over
some seconds without a client and over some seconds with one.
"""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial

import trio

from _pools import full_pool
from _runner import Goal, Report, Sampler, run
from qorb_trio import qtop


async def percent_of_a_core(seconds: float) -> float:
    """Return the processor time of this process over `seconds`, in percent of a core."""
    cpu, wall = time.process_time(), time.perf_counter()
    await trio.sleep(seconds)
    return (time.process_time() - cpu) / (time.perf_counter() - wall) * 100


async def measure(report: Report) -> None:
    """Without a client, with one."""
    seconds = 0.1 * report.size(100, 1)
    async with (
        full_pool(backends=report.size(1000, 10), slots_each=2) as pool,
        trio.open_nursery() as nursery,
    ):
        listeners = await nursery.start(partial(qtop.serve, [pool], port=0))
        port = listeners[0].socket.getsockname()[1]
        client = [sys.executable, "-m", "qorb_trio.qtop", f"127.0.0.1:{port}", "--json"]

        async def watched() -> float:
            async with trio.open_nursery() as clients:
                clients.start_soon(partial(trio.run_process, client, stdout=subprocess.DEVNULL))
                await trio.sleep(0.1 * report.size(30, 5))  # it starts, and is told a first time
                percent = await percent_of_a_core(seconds)
                clients.cancel_scope.cancel()
            return percent

        contenders: dict[str, Sampler] = {
            "nobody watches": partial(percent_of_a_core, seconds),
            "one client at 1 Hz": watched,
        }
        goals = {"one client at 1 Hz": Goal(2)}
        question = "1,000 backends, idle"
        await report.compare(question, "% of a core", contenders, rounds=3, goals=goals)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    run(__doc__, measure)
