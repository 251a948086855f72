"""Any number of clients of an echo service, all on one pool: watch it, and break things.

    python examples/tcp_echo_workload.py

The pool finds the servers of ``_echo._tcp.test.com.`` by asking the DNS server of the
examples (see README.md). On a terminal, Tab adds a client and Shift-Tab removes one; for
pipes, ``--plain`` prints a line each second. It then exits with 1 if any claim failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import signal
import sys

import trio

import qorb_trio
from echo_claimers import EchoConnector, Workload, no_backends

SERVICE = "_echo._tcp.test.com."
NAMESERVER = "[::1]:1234"

# Small numbers, so that one sees them at work: a spare connection for every third slot, a
# dead backend asked again every other second, a plan that is made anew every ten.
POLICY = qorb_trio.Policy(
    spares_wanted=6,
    max_slots=18,
    rebalance_interval=10,
    claim_timeout=5,
    set_config=qorb_trio.SetConfig(max_connection_backoff=2, health_interval=5),
)
DNS_CONFIG = qorb_trio.DnsResolverConfig(query_interval=5, max_refresh=5)


async def main(arguments: argparse.Namespace) -> int:
    """Open the pool, let the claimers loose on it, show what happens; the exit status."""
    plain = arguments.plain or not can_show_screen()
    title = f"{arguments.service} by {arguments.nameserver}"
    async with trio.open_nursery() as nursery:
        async with (
            qorb_trio.open_pool(
                nursery, arguments.resolver, EchoConnector(), policy=POLICY, name="echo"
            ) as pool,
            # The claimers get a nursery inside of the pool's block, so that they end first.
            trio.open_nursery() as claimers,
        ):
            if arguments.qtop is not None:
                # Not at the top, because only a program that is watched needs the extra `qtop`.
                from qorb_trio import qtop

                host, port = arguments.qtop
                try:
                    await claimers.start(qtop.serve, [pool], host, port)
                except OSError as exc:
                    print(f"qtop cannot be served on {host}, port {port}: {exc}", file=sys.stderr)
                    return 2  # noqa: ASYNC121 - no claimer runs in it yet
            workload = Workload(pool, arguments.hold, claimers)
            for _ in range(arguments.claimers):
                workload.add()
            with trio.move_on_after(arguments.seconds):
                await (print_lines if plain else show_screen)(title, workload)
            claimers.cancel_scope.cancel()
    print(summary(workload))
    return int(plain and (workload.tally.failures > 0 or workload.tally.claims == 0))


def can_show_screen() -> bool:
    """Return True if there is a terminal with a cursor and our signs, and `rich` is installed."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    if importlib.util.find_spec("rich") is None:
        lacking = "the package `rich`"
    elif os.environ.get("TERM", "dumb") == "dumb":
        lacking = "a terminal with a cursor, and TERM does not name one"
    elif not sys.stdout.encoding.lower().startswith("utf"):
        lacking = "a locale with UTF-8"
    else:
        return True
    print(f"The screen needs {lacking}; without it, these are lines.")
    return False


async def show_screen(title: str, workload: Workload) -> None:
    """Show the workload full-screen, until the user quits."""
    # Not at the top, because `rich` is not needed for printing lines.
    from echo_screen import show

    await show(title, workload)


async def print_lines(title: str, workload: Workload) -> None:
    """Print a line each second, until Ctrl-C."""
    print(title, flush=True)
    with trio.open_signal_receiver(signal.SIGINT) as stops:
        while True:
            with trio.move_on_after(1):
                await anext(stops)
                return
            print(line(workload), flush=True)


def line(workload: Workload) -> str:
    """Return one line about the last second or so."""
    stats, tally = workload.pool.stats(), workload.tally
    backends = (
        f"{name}: {backend.claimed} claimed, {backend.unclaimed} spare,"
        f" {backend.connecting} connecting"
        for name, backend in sorted(stats.backends.items())
    )
    return "; ".join(
        [
            f"{trio.current_time() - workload.started:.0f} s",
            f"{tally.claims} claims, {tally.rate():.1f}/s",
            f"{tally.failures} failed, {stats.waiting} waiting",
            *(backends if stats.backends else [no_backends(stats)]),
        ]
    )


def summary(workload: Workload) -> str:
    """Return a summary of all claims."""
    tally = workload.tally
    return (
        f"{tally.claims} claims, {tally.failures} failed;"
        f" the slowest came after {tally.slowest * 1000:.1f} ms"
    )


def host_and_port(text: str) -> tuple[str, int]:
    """Return the address at which to serve qtop, from ``HOST:PORT`` or a port alone."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal():
        raise argparse.ArgumentTypeError(f"not [HOST:]PORT: {text!r}")
    return host.strip("[]") or "127.0.0.1", int(port)


def not_negative(text: str) -> float:
    """Return a number of seconds."""
    if not (seconds := float(text)) >= 0:
        raise argparse.ArgumentTypeError(f"it must not be negative: {text}")
    return seconds


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description="Clients of an echo service, on one pool.")
    parser.add_argument("--service", default=SERVICE, help="default: %(default)s")
    parser.add_argument("--nameserver", default=NAMESERVER, help="default: %(default)s")
    parser.add_argument("--claimers", type=int, default=4, help="to begin with; default: 4")
    parser.add_argument(
        "--hold",
        type=not_negative,
        default=0.2,
        metavar="SECONDS",
        help="how long they hold each claim, to begin with; default: %(default)s",
    )
    parser.add_argument(
        "--seconds", type=not_negative, default=math.inf, help="stop after that; default: never"
    )
    parser.add_argument(
        "--qtop",
        type=host_and_port,
        metavar="[HOST:]PORT",
        help="let qtop watch, in a terminal or in a browser; e.g. 42069",
    )
    parser.add_argument(
        "--plain",
        action="store_true",
        help="print lines, as is done anyhow when this is not a terminal",
    )
    arguments = parser.parse_args()
    try:
        arguments.resolver = qorb_trio.DnsResolver(
            arguments.service, nameservers=[arguments.nameserver], config=DNS_CONFIG
        )
    except ValueError as exc:
        parser.error(str(exc))
    return arguments


if __name__ == "__main__":
    try:
        sys.exit(trio.run(main, parse_arguments()))
    except (KeyboardInterrupt, BaseExceptionGroup) as stop:
        # Ctrl-C is one way to leave, `| head` is another; what else failed as all was torn
        # down is of no interest.
        leaving = (KeyboardInterrupt, BrokenPipeError)
        if isinstance(stop, BaseExceptionGroup) and not stop.subgroup(leaving):
            raise
        # Python would complain when it flushes what nobody reads.
        sys.stdout = None
