"""The demo: one pool, three servers, one of them killed. Takes ten seconds.

    python examples/demo.py

It starts a DNS server and three echo servers on this machine, and a dozen claimers that
use them through one pool. Then it kills one of the servers, in the middle of its claims,
and later starts it again at another address, which only DNS tells. It ends with an
account of every claim, and exits with 1 if one failed that should not have.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TypeAlias

import attrs
import trio

import qorb_trio
from demo_account import Account, Kill, Move, Printer
from echo_claimers import Claimer, CountingConnector, Outcome
from qorb_trio.testing import DnsServer

ORIGIN = "test.com."
SERVICE = "_echo._tcp.test.com."
NAMES = ("echo001", "echo002", "echo003")
VICTIM = "echo002"
SERVER = Path(__file__).with_name("tcp_echo_server.py")

CLAIMERS = 12
HOLD = [0.02 + 0.002 * number for number in range(CLAIMERS)]
TICK = 0.5
POLICY = qorb_trio.Policy(
    spares_wanted=6,
    max_slots=24,
    claim_timeout=2,
    set_config=qorb_trio.SetConfig(max_connection_backoff=1),
)

Pool: TypeAlias = "qorb_trio.Pool[trio.SocketStream]"


# --- The servers -----------------------------------------------------------------------


@attrs.frozen
class Server:
    """One echo server, in a process of its own."""

    name: str
    host: str
    port: int
    process: trio.Process


async def start_server(nursery: trio.Nursery, name: str, host: str) -> Server:
    """Start an echo server on any free port of `host`. It ends with the nursery."""
    command = [sys.executable, str(SERVER), f"{host}:0", "--until-end-of-input"]
    process: trio.Process = await nursery.start(
        # `check=False`: that a server is killed is no error here, it is the plot.
        partial(
            trio.run_process,
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            check=False,
        )
    )
    assert process.stdout is not None
    said = b""
    while not said.endswith(b"\n"):
        chunk = await process.stdout.receive_some()
        if not chunk:
            raise RuntimeError(f"{name} did not start; it said {said!r}")
        said += chunk
    return Server(name, host, int(said.decode().rpartition(":")[2]), process)


async def start_servers(nursery: trio.Nursery) -> dict[str, Server]:
    """Start all servers, at the same time."""
    servers = {}

    async def start(name: str) -> None:
        servers[name] = await start_server(nursery, name, "127.0.0.1")

    async with trio.open_nursery() as starting:
        for name in NAMES:
            starting.start_soon(start, name)
    return {name: servers[name] for name in NAMES}


def zone(servers: dict[str, Server]) -> str:
    """Return the DNS zone that leads to `servers`. Its records are valid for one second."""
    lines = ["$TTL 1", "@ SOA ns hostmaster 1 60 60 3600 1"]
    for server in servers.values():
        lines.append(f"_echo._tcp SRV 1 1 {server.port} {server.name}")
        lines.append(f"{server.name} A {server.host}")
    return "\n".join(lines) + "\n"


def another_loopback_host() -> str:
    """Return a second address of this machine, if it has one, as on Linux."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.2", 0))
        except OSError:
            return "127.0.0.1"
        return "127.0.0.2"


# --- The plot --------------------------------------------------------------------------


@attrs.define(eq=False)
class Demo:
    """The demo while it runs."""

    seconds: float
    printer: Printer
    account: Account = attrs.field(factory=Account)

    async def run(self) -> bool:
        """Run the demo, from the servers to the account. Return True if all went well."""
        connector = CountingConnector()
        async with trio.open_nursery() as nursery:
            servers = await start_servers(nursery)
            async with DnsServer(zone=zone(servers), origin=ORIGIN) as dns:
                self._introduce(servers, dns)
                resolver = qorb_trio.DnsResolver(SERVICE, nameservers=[dns.address])
                async with qorb_trio.open_pool(
                    nursery, resolver, connector, policy=POLICY, name="demo"
                ) as pool:
                    await self._get_ready(pool)
                    async with trio.open_nursery() as claimers:
                        self._start_claimers(claimers, pool)
                        await self._kill_and_return(nursery, servers, dns, pool)
                        claimers.cancel_scope.cancel()
            nursery.cancel_scope.cancel()  # Ends the servers.
        return self.sum_up(connector)

    def sum_up(self, connector: CountingConnector) -> bool:
        """Print the account and the verdict. Return True if all went well."""
        self.printer.report(self.account, connector)
        self.printer.say()
        problems = list(self._problems(connector))
        for problem in problems:
            self.printer.say(self.printer.paint(problem, 1, 31))
        if not problems:
            self.printer.say(self.printer.paint("No claim failed.", 1, 32))
        return not problems

    def _introduce(self, servers: dict[str, Server], dns: DnsServer) -> None:
        say = self.printer.say
        say(self.printer.paint("One pool, three servers, one of them killed", 1))
        say()
        for server in servers.values():
            say(f"  {server.name}  {server.host}:{server.port}, process {server.process.pid}")
        say(f"  DNS      {dns.address[0]}:{dns.address[1]}, tells where {SERVICE} is")
        say()
        use = f"use it for {min(HOLD) * 1000:.0f} to {max(HOLD) * 1000:.0f} ms"
        say(f"  {CLAIMERS} claimers, again and again: claim a connection,")
        say(f"  {use}, let it go")
        say(f"  slots: {self.printer.legend()}")
        say()

    async def _get_ready(self, pool: Pool) -> None:
        self.printer.started = trio.current_time()
        # No need to wait: a claim would. But then the first claims would be the slowest.
        await pool.wait_ready(POLICY.spares_wanted)
        took = trio.current_time() - self.printer.started
        self.printer.event(f"{POLICY.spares_wanted} connections are ready, {took * 1000:.0f} ms on")

    def _start_claimers(self, nursery: trio.Nursery, pool: Pool) -> None:
        for number, hold in enumerate(HOLD, 1):
            claimer = Claimer(f"claimer {number}", hold, self._take_down)
            nursery.start_soon(claimer.run, pool)
        nursery.start_soon(self._tick, pool)

    async def _kill_and_return(
        self, nursery: trio.Nursery, servers: dict[str, Server], dns: DnsServer, pool: Pool
    ) -> None:
        await trio.sleep(0.3 * self.seconds)
        await self._kill(servers[VICTIM], pool)
        await trio.sleep(0.3 * self.seconds)
        server = servers[VICTIM] = await start_server(nursery, VICTIM, another_loopback_host())
        dns.load_zone(zone(servers), origin=ORIGIN)
        self.account.moved = Move((server.host, server.port), trio.current_time())
        self.printer.event(
            f"{VICTIM} starts again at {server.host}:{server.port}, and DNS is told", 33
        )
        await trio.sleep(0.4 * self.seconds)

    async def _kill(self, victim: Server, pool: Pool) -> None:
        backends = pool.stats().backends.values()
        there = next(stats for stats in backends if stats.backend.port == victim.port)
        self.printer.event(
            f"kill -9 {victim.process.pid}: {victim.name} dies,"
            f" in the middle of {there.claimed} claims",
            31,
        )
        kill = self.account.kill = Kill(there.backend, trio.current_time())
        victim.process.kill()
        await victim.process.wait()
        kill.ended = trio.current_time()

    def _take_down(self, outcome: Outcome) -> None:
        was_found = self.account.found
        self.account.add(outcome)
        if self.account.found is not None and was_found is None:
            assert self.account.moved is not None
            took = self.account.found - self.account.moved.time
            self.printer.event(f"the pool has found {VICTIM}: in use again after {took:.1f} s", 32)

    async def _tick(self, pool: Pool) -> None:
        then, before = trio.current_time(), 0
        while True:
            await trio.sleep(TICK)
            now, stats = trio.current_time(), pool.stats()
            rate = (stats.claims - before) / (now - then)
            self.printer.tick(stats, rate, len(self.account.failed()))
            then, before = now, stats.claims

    def _problems(self, connector: CountingConnector) -> Iterator[str]:
        if failed := self.account.failed():
            claims = "1 claim" if len(failed) == 1 else f"{len(failed)} claims"
            yield f"{claims} failed that should not have."
        if self.account.found is None:
            yield f"No claim ever used {VICTIM} at its new address."
        if connector.opened != connector.closed:
            yield "Not every connection was closed just once."


async def main(seconds: float, *, plain: bool) -> int:
    """Run the demo, and return the exit status."""
    # The pool logs each connection that fails, and here hundreds do, on purpose. What is
    # of interest about them is in the pool's statistics, which the demo prints.
    logging.getLogger("qorb_trio").addHandler(logging.NullHandler())
    return 0 if await Demo(seconds, Printer(plain, NAMES)).run() else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="One pool, three servers, one of them killed.")
    parser.add_argument("--seconds", type=float, default=10, help="how long; default: 10")
    parser.add_argument(
        "--plain", action="store_true", help="no colours, as is done anyhow off a terminal"
    )
    arguments = parser.parse_args()
    no_colours = (
        arguments.plain
        or not (sys.stdout.isatty() and sys.stdout.encoding.lower().startswith("utf"))
        or "NO_COLOR" in os.environ
        or os.environ.get("TERM", "dumb") == "dumb"
    )
    try:
        sys.exit(trio.run(partial(main, arguments.seconds, plain=no_colours)))
    except (KeyboardInterrupt, BaseExceptionGroup) as stop:
        # What else failed as all was torn down is of no interest then.
        if isinstance(stop, BaseExceptionGroup) and not stop.subgroup(KeyboardInterrupt):
            raise
        sys.exit(130)
