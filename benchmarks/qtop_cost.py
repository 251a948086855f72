"""What does qtop cost the program that is watched?

A pool with 1,000 backends and one client that is told once a second. The client is a process of
its own; what is measured is the processor time of this one, in percent of a core, over some
seconds without a client and some with one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from functools import partial

import trio

from _pools import full_pool
from qorb_trio import qtop


async def percent_of_a_core(seconds: float) -> float:
    """The processor time of this process while so many seconds pass."""
    cpu, wall = time.process_time(), time.perf_counter()
    await trio.sleep(seconds)
    return (time.process_time() - cpu) / (time.perf_counter() - wall) * 100


async def main(arguments: argparse.Namespace) -> None:
    """Measure, and print what came out."""
    async with full_pool(backends=1000, slots_each=2) as pool, trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(qtop.serve, [pool], port=0))
        port = listeners[0].socket.getsockname()[1]
        alone = await percent_of_a_core(arguments.seconds)
        client = [sys.executable, "-m", "qorb_trio.qtop", f"127.0.0.1:{port}", "--json"]
        nursery.start_soon(partial(trio.run_process, client, stdout=subprocess.DEVNULL))
        await trio.sleep(3)  # it starts, and is told for the first time
        watched = await percent_of_a_core(arguments.seconds)
        nursery.cancel_scope.cancel()
    print(f"1,000 backends, no client:           {alone:.2f} % of a core")
    print(f"1,000 backends, one client at 1 Hz:  {watched:.2f} % of a core")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What qtop costs the program that is watched.")
    parser.add_argument("--seconds", type=float, default=20, help="to measure; default: 20")
    trio.run(main, parser.parse_args())
