"""``python -m qorb_trio.sizing``: a policy for many clients, and what to expect of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ._suggest import Sizing, suggest


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a policy, and what to expect; 0, or 2 for wrong arguments."""
    parser = _parser()
    args = parser.parse_args(arguments)
    try:
        sizing = suggest(args.clients, args.backends, args.rate, args.hold, waiting=args.waiting)
    except ValueError as exc:
        parser.error(str(exc))
    sys.stdout.write("".join(f"{line}\n" for line in lines_of(sizing)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m qorb_trio.sizing",
        description="Suggest a policy for many clients, and say what to expect of it.",
    )
    add = parser.add_argument
    add("--clients", type=int, required=True, help="number of clients, each with a pool")
    add("--backends", type=int, required=True, help="number of backends")
    add("--rate", type=float, required=True, help="claims per second of one client")
    add("--hold", type=float, required=True, help="mean seconds for which a claim is held")
    add("--waiting", type=float, default=0.01, help="part of the claims that may wait (0.01)")
    return parser


def lines_of(sizing: Sizing) -> list[str]:
    """Return the lines that the command prints."""
    queue, policy = sizing.queue, sizing.policy
    rows = [
        ("connections per backend, mean", f"{sizing.connections_per_backend:.1f}"),
        ("connections to the busiest backend", f"{sizing.busiest_backend}"),
        ("busiest backend / mean", f"{sizing.spread:.2f}"),
        ("backends per client at a time", f"{sizing.backends_per_client}"),
        ("subset(size), if backends should know few clients", f"{sizing.subset_size or 'none'}"),
        ("claims served by a backend at a time", f"{sizing.requests_per_backend:.1f}"),
        ("utilisation of a connection", f"{100 * queue.utilisation:.0f} %"),
        ("claims that wait", f"{100 * queue.waiting_probability:.2g} %"),
        ("mean wait of all claims", _milliseconds(queue.mean_wait)),
        ("99.9 % of the claims wait less than", _milliseconds(queue.wait_quantile(0.999))),
        ("connects per backend for old connections", f"{sizing.connects_per_backend:.2g} per s"),
    ]
    return [str(policy), *(f"  {name:<52}{value}" for name, value in rows)]


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.2g} ms"


if __name__ == "__main__":
    sys.exit(main())
