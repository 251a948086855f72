"""What does a pool add to a round trip over a real socket, and what does it save?

A round trip is one byte to an echo server on the loopback interface and back. It is made over
a connection that is held all the time, one that is claimed each time, and one that is opened
each time. A fourth contender holds its connection but takes a limiter, which costs one more
turn of Trio's loop, as a claim does; a fifth claims without that turn, by `Pool.claim_nowait`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import perf_counter

import trio

from _runner import Report, Sampler, run, times
from qorb_trio import FixedResolver, TcpConnector, open_pool

TRIPS = 200


async def serve(stream: trio.SocketStream) -> None:
    """Send back the bytes that arrive."""
    async for data in stream:
        await stream.send_all(data)


async def round_trip(stream: trio.abc.Stream) -> None:
    """There and back."""
    await stream.send_all(b"x")
    await stream.receive_some(1)


def many(trip: Callable[[], Awaitable[None]], trips: int) -> Sampler:
    """Microseconds for one trip."""

    async def sample() -> float:
        begin = perf_counter()
        for _ in range(trips):
            await trip()
        return (perf_counter() - begin) / trips * 1e6

    return sample


async def measure(report: Report) -> None:
    """All these ways."""
    async with trio.open_nursery() as servers:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        host, port = listener.socket.getsockname()
        servers.start_soon(trio.serve_listeners, serve, [listener])
        async with (
            trio.open_nursery() as nursery,
            open_pool(nursery, FixedResolver([(host, port)]), TcpConnector()) as pool,
            await trio.open_tcp_stream(host, port) as held,
        ):
            await pool.wait_ready(8)

            async def over_held() -> None:
                await round_trip(held)

            tokens = trio.CapacityLimiter(16)

            async def over_limited() -> None:
                async with tokens:
                    await round_trip(held)

            async def over_pooled() -> None:
                async with pool.claim() as stream:
                    await round_trip(stream)

            async def over_pooled_nowait() -> None:
                try:
                    with pool.claim_nowait() as stream:
                        await round_trip(stream)
                except trio.WouldBlock:
                    await over_pooled()

            async def over_new() -> None:
                async with await trio.open_tcp_stream(host, port) as stream:
                    await round_trip(stream)

            trips = report.size(TRIPS, 2)
            held_one, limited, pooled, new = (
                many(trip, trips) for trip in (over_held, over_limited, over_pooled, over_new)
            )
            # At least 0.9 of the rate is at most 1 / 0.9 of the time.
            await report.compare(
                "echo round trip",
                "µs",
                {
                    "one connection, held": held_one,
                    "the same, CapacityLimiter(16)": limited,
                    "pool": pooled,
                    "pool, claim_nowait": many(over_pooled_nowait, trips),
                },
                rounds=25,
                goals={"pool": times(1.11), "pool, claim_nowait": times(1.11)},
            )
            await report.compare(
                "echo round trip",
                "µs",
                {"a new connection each": new, "pool": pooled},
                rounds=15,
                goals={"pool": times(0.25)},
            )
        servers.cancel_scope.cancel()


if __name__ == "__main__":
    run(__doc__, measure)
