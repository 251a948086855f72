"""A pool at twice its capacity, with and without ``queue_target``.

    python examples/overload.py

Two pools have two connections each. A claim comes every 25 ms and holds a connection for 0.1 s,
so that each pool is asked for twice as much as it can do. The chart shows for each second how
long the claims that came in it have waited: a bar for those that were served, and the number of
those that were refused. It takes ten seconds and needs no server.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys

import attrs
import trio

import qorb_trio

CONNECTIONS = 2
HOLD = 0.1
INTERVAL = 0.025
TIMEOUT = 5.0
TARGET = 0.05


class Session:
    """A connection to nowhere."""


class Sessions(qorb_trio.Connector[Session]):
    """Connects at once."""

    async def connect(self, backend: qorb_trio.Backend) -> Session:
        """Return a new session."""
        return Session()


@attrs.define
class Second:
    """The claims that came within one second."""

    waits: list[float] = attrs.field(factory=list)
    """How long those waited that were served."""
    refused: int = 0
    """Those that were refused, or whose time was up."""

    @property
    def wait(self) -> float:
        """The median of the waits."""
        return statistics.median(self.waits) if self.waits else 0.0


@attrs.define
class Record:
    """The claims on one pool."""

    title: str
    policy: qorb_trio.Policy
    seconds: list[Second]

    async def claim(self, pool: qorb_trio.Pool[Session], second: Second) -> None:
        """Claim a connection, and use it for a while."""
        came = trio.current_time()
        try:
            async with pool.claim():
                second.waits.append(trio.current_time() - came)
                await trio.sleep(HOLD)
        except qorb_trio.ClaimTimeoutError:
            second.refused += 1

    async def run(self) -> None:
        """Make claims at a steady rate, and wait for the last of them."""
        resolver = qorb_trio.FixedResolver([("localhost", 1)])
        async with (
            trio.open_nursery() as nursery,
            qorb_trio.open_pool(nursery, resolver, Sessions(), policy=self.policy) as pool,
        ):
            await pool.wait_ready(CONNECTIONS)
            began = trio.current_time()
            async with trio.open_nursery() as claims:
                for number in range(round(len(self.seconds) / INTERVAL)):
                    await trio.sleep_until(began + number * INTERVAL)
                    second = self.seconds[int(number * INTERVAL)]
                    claims.start_soon(self.claim, pool, second)

    def summary(self) -> str:
        """Return the numbers of all claims, in a line."""
        waits = [wait for second in self.seconds for wait in second.waits]
        refused = sum(second.refused for second in self.seconds)
        return (
            f"{len(waits)} served, {refused} refused;"
            f" median wait {statistics.median(waits):.2f} s, longest {max(waits):.2f} s"
        )


def make_records(seconds: int) -> list[Record]:
    """The two pools: the same but for ``queue_target``."""
    plain = qorb_trio.Policy(
        max_slots=CONNECTIONS, spares_wanted=CONNECTIONS, claim_timeout=TIMEOUT
    )
    return [
        Record(title, policy, [Second() for _ in range(seconds)])
        for title, policy in [
            ("without queue_target", plain),
            (f"with queue_target={TARGET}", attrs.evolve(plain, queue_target=TARGET)),
        ]
    ]


def draw(record: Record, longest: float, width: int, sign: str) -> list[str]:
    """Draw one pool: a bar for each second, as long as the wait."""
    lines = [f"{record.title}: {record.summary()}"]
    for number, second in enumerate(record.seconds, 1):
        bar = "nobody was served"
        if second.waits:
            bar = f"{sign * max(1, round(second.wait / longest * width))} {second.wait:.2f} s"
        refused = f", {second.refused} refused" if second.refused else ""
        lines.append(f"{number:4} s  {bar}{refused}")
    return lines


def chart(records: list[Record], width: int, sign: str) -> str:
    """Draw all pools on the same scale."""
    longest = max(second.wait for record in records for second in record.seconds) or 1.0
    charts = ["\n".join(draw(record, longest, width, sign)) for record in records]
    return "\n\n".join(["Median wait of the claims that came in each second:", *charts])


async def main(seconds: int) -> list[Record]:
    """Run both pools at the same time."""
    records = make_records(seconds)
    async with trio.open_nursery() as nursery:
        for record in records:
            nursery.start_soon(record.run)
    return records


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A pool at twice its capacity.")
    parser.add_argument("--seconds", type=int, default=8, help="default: %(default)s")
    sign = "█" if (sys.stdout.encoding or "").lower().startswith("utf") else "#"
    width = max(10, shutil.get_terminal_size().columns - 35)
    found = trio.run(main, parser.parse_args().seconds)
    sys.stdout.write(chart(found, width, sign) + "\n")
