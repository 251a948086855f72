"""A TCP echo server, one backend of the examples.

    python examples/tcp_echo_server.py [::1]:6001

Port 0 lets the system choose; the line that the server prints tells which it was.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial

import trio


async def echo(stream: trio.SocketStream) -> None:
    """Send back whatever comes, until the client hangs up."""
    try:
        async for chunk in stream:
            await stream.send_all(chunk)
    except trio.BrokenResourceError:
        pass  # The client is gone. That is its own affair, and no reason to stop serving others.


async def wait_for_end_of_input() -> None:
    """Return when the other end of our standard input is closed, or its process has ended."""
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stdin:
        async for _ in stdin:
            pass


async def main(host: str, port: int, *, until_end_of_input: bool = False) -> int:
    """Listen on `host` and `port`, say so, and serve until cancelled; the exit status."""
    async with trio.open_nursery() as nursery:
        try:
            listeners: list[trio.SocketListener] = await nursery.start(
                partial(trio.serve_tcp, echo, port, host=host)
            )
        except OSError as exc:
            print(f"cannot listen on {format_address(host, port)}: {exc}", file=sys.stderr)
            return 1  # noqa: ASYNC121 - nothing runs in it yet
        for listener in listeners:
            bound_host, bound_port = listener.socket.getsockname()[:2]
            print(f"listening on {format_address(bound_host, bound_port)}", flush=True)
        if until_end_of_input:
            await wait_for_end_of_input()
            nursery.cancel_scope.cancel()
    return 0


def format_address(host: str, port: int) -> str:
    """``host:port``, with brackets round an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(text: str) -> tuple[str, int]:
    """The two parts of ``host:port``, where the host may be an IPv6 address in brackets."""
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdecimal()):
        raise argparse.ArgumentTypeError(f"not host:port: {text!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A TCP echo server.")
    parser.add_argument("address", type=parse_address, help="where to listen, such as [::1]:6001")
    parser.add_argument(
        "--until-end-of-input",
        action="store_true",
        help="stop when standard input ends: a server that cannot outlive the program it is for",
    )
    arguments = parser.parse_args()
    try:
        status = trio.run(
            partial(main, *arguments.address, until_end_of_input=arguments.until_end_of_input)
        )
        sys.exit(status)
    except* KeyboardInterrupt:
        pass  # Ctrl-C is how a person stops it; a traceback would say nothing.
