"""How long does it take to import the library, beyond importing Trio and attrs?

Each sample is a new process, and only the import is timed, not the start of the interpreter.
The first import is not counted, because Python compiles the modules then.
"""

from __future__ import annotations

import os
import sys
import tempfile

import trio

from _runner import Report, Sampler, run, times

PROGRAM = """
from time import perf_counter
{before}
begin = perf_counter()
{timed}
print((perf_counter() - begin) * 1e3)
"""


def timing(timed: str, *, before: str = "", compiled: str) -> Sampler:
    """Milliseconds, with what is `compiled` in that folder."""
    env = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", PROGRAM.format(before=before, timed=timed)]

    async def sample() -> float:
        done = await trio.run_process(command, capture_stdout=True, env=env)
        return float(done.stdout)

    return sample


async def measure(report: Report) -> None:
    """Time the imports of Trio and attrs, then of this package, then a resolver with dnspython."""
    ours = "import qorb_trio"
    base = "import trio, attrs"
    resolver = "qorb_trio.DnsResolver('_x._tcp.test.')"
    with tempfile.TemporaryDirectory() as compiled:
        contenders = {
            base: timing(base, compiled=compiled),
            f"then {ours}": timing(ours, before=base, compiled=compiled),
            "then make a DnsResolver": timing(
                resolver, before=f"{base}, qorb_trio", compiled=compiled
            ),
        }
        if report.quick:
            del contenders[base]
        await contenders["then make a DnsResolver"]()
        # 40 ms on a machine where Trio and attrs take 85.
        goals = {f"then {ours}": times(0.47)}
        await report.compare("import", "ms", contenders, rounds=11, goals=goals)


if __name__ == "__main__":
    run(__doc__, measure)
