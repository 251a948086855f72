"""A DNS server for the examples, which follows its zone file as it is edited.

    python examples/dns_server.py

It answers for ``examples/dns/test.com.zone``, on port 1234 of ``::1``. The zone is loaded
again when the file changes, or at SIGHUP; one that does not parse is reported, and the
one before stays in force.
"""

from __future__ import annotations

import argparse
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TypeAlias

import trio

from qorb_trio.testing import DnsServer

ZONE = Path(__file__).parent / "dns" / "test.com.zone"
LOOK_EVERY = 0.5

Version: TypeAlias = tuple[int, int, int]


async def main(file: Path, origin: str, host: str, port: int) -> None:
    """Serve the zone until cancelled."""
    version = modified(file)  # Of before it is read: what changes from now on is noticed.
    with trio.open_signal_receiver(signal.SIGHUP) as hangups:
        async with (
            DnsServer(file, origin=origin, hosts=host, port=port) as server,
            trio.open_nursery() as nursery,
        ):
            print(f"serving {origin} on {host}, port {server.address[1]}, from {file}", flush=True)
            nursery.start_soon(reload_when_changed, server, file, origin, version)
            async for _ in hangups:
                reload(server, file, origin)


async def reload_when_changed(
    server: DnsServer, file: Path, origin: str, before: Version | None
) -> None:
    """Load the zone again whenever its file is changed."""
    while True:
        await trio.sleep(LOOK_EVERY)
        now = modified(file)
        # An editor may take a file away for a moment as it saves: wait for it to be back.
        if now is not None and now != before:
            before = now
            reload(server, file, origin)


def modified(file: Path) -> Version | None:
    """Return a value that changes when the file changes; `None` while there is no file."""
    try:
        stat = file.stat()
    except FileNotFoundError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def reload(server: DnsServer, file: Path, origin: str) -> None:
    """Load the zone again, or say why not."""
    try:
        server.load_zone(file, origin=origin)
    except (OSError, ValueError) as exc:
        print(f"not reloaded: {exc}", flush=True)
    else:
        print(f"reloaded {file}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A DNS server for the examples.")
    parser.add_argument("zone", nargs="?", type=Path, default=ZONE, help="default: %(default)s")
    parser.add_argument("--origin", default="test.com.", help="default: %(default)s")
    parser.add_argument("--host", default="::1", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=1234, help="default: %(default)s")
    arguments = parser.parse_args()
    failed = None
    try:
        trio.run(partial(main, arguments.zone, arguments.origin, arguments.host, arguments.port))
    except* KeyboardInterrupt:
        pass
    except* (OSError, ValueError) as group:
        # No such file, no zone, or no such address, or one that is taken.
        failed = f"cannot serve {arguments.zone}: {group.exceptions[0]}"
    sys.exit(failed)
