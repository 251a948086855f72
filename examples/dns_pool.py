"""A pool over DNS, while the records change.

    python examples/dns_pool.py

A DNS server and three echo servers run in this one program. Clients use the service all
the time, while it moves: a backend is added, one goes, one gets another address, and DNS
fails for a while. Every claim is counted, and none fails.
"""

from __future__ import annotations

import argparse
from collections import Counter
from contextlib import suppress

import trio

import qorb_trio
from qorb_trio.testing import DnsServer

SERVICE = "_echo._tcp.test."
PAUSE = 3.0


async def main(pause: float) -> None:
    """Run the clients through the changes."""
    claims: Counter[str] = Counter()
    async with trio.open_nursery() as nursery, DnsServer(origin="test.", default_ttl=1) as dns:
        ports = [await start_echo_server(nursery) for _ in range(3)]
        for number in range(3):
            dns.set(f"echo{number}", "A", "127.0.0.1")
        announce(dns, ports[:2])

        resolver = qorb_trio.DnsResolver(
            SERVICE,
            nameservers=[dns.address],
            config=qorb_trio.DnsResolverConfig(query_timeout=1.0),
        )
        connector = qorb_trio.TcpConnector()
        async with (
            qorb_trio.open_pool(nursery, resolver, connector, name="echo") as pool,
            trio.open_nursery() as clients,
        ):
            for _ in range(4):
                clients.start_soon(use, pool, claims)
            await show(pool, claims, "two backends", pause)
            announce(dns, ports)
            await show(pool, claims, "a third one is added", pause)
            announce(dns, ports[1:], first=1)
            await show(pool, claims, "the first one has gone", pause)
            dns.set("echo1", "A", "127.0.0.2")
            await show(pool, claims, "the second one has moved to 127.0.0.2", pause)
            dns.fault = lambda _: "SERVFAIL"
            await show(pool, claims, "DNS fails: nothing is dropped", pause)
            clients.cancel_scope.cancel()
        print(f"{claims.total()} claims, {claims['failed']} failed")
        nursery.cancel_scope.cancel()


def announce(dns: DnsServer, ports: list[int], *, first: int = 0) -> None:
    """Make these the backends of the service."""
    records = [f"0 1 {port} echo{number}" for number, port in enumerate(ports, first)]
    dns.set("_echo._tcp", "SRV", records)


async def start_echo_server(nursery: trio.Nursery) -> int:
    """An echo server on all loopback addresses; its port."""

    async def echo(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):  # the client hung up before it had its answer
            async for data in stream:
                await stream.send_all(data)

    listeners = await trio.open_tcp_listeners(0, host="0.0.0.0")
    nursery.start_soon(trio.serve_listeners, echo, listeners)
    port: int = listeners[0].socket.getsockname()[1]
    return port


async def use(pool: qorb_trio.Pool[trio.SocketStream], claims: Counter[str]) -> None:
    """Be a client: claim a connection, use it, let it go, again and again."""
    while True:
        try:
            async with pool.claim() as stream:
                await stream.send_all(b"hello")
                await stream.receive_some()
            claims["done"] += 1
        except (qorb_trio.ClaimError, trio.BrokenResourceError):
            claims["failed"] += 1
        await trio.sleep(0.01)


async def show(
    pool: qorb_trio.Pool[trio.SocketStream], claims: Counter[str], what: str, pause: float
) -> None:
    """Wait for the change to have happened, and say what the pool looks like."""
    await trio.sleep(pause)
    print(f"{what} ({claims['done']} claims so far)")
    for name, stats in sorted(pool.stats().backends.items()):
        connected = stats.unclaimed + stats.checking + stats.claimed
        print(f"    {name}: {connected} connected, {stats.total_claims} claims")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A pool over DNS while its records change.")
    parser.add_argument(
        "--pause", type=float, default=PAUSE, help="seconds between changes (default: %(default)s)"
    )
    trio.run(main, parser.parse_args().pause)
