"""An echo server, run as a process that a test may kill, stop and resume.

    python echo_server.py HOST PORT

Port 0 is any free one below those that the system gives to outgoing connections: else a
dial to a server that is dead could be given the very port that it dials, and meet itself.
It prints its port, and ends when its standard input does: it does not outlive its test.
"""

from __future__ import annotations

import contextlib
import os
import random
import selectors
import socket
import sys

PORTS = range(20_000, 32_000)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket: on that port, or on any."""
    if port:
        return socket.create_server((host, port), backlog=256)
    while True:
        with contextlib.suppress(OSError):
            return socket.create_server((host, random.choice(PORTS)), backlog=256)


def serve(listener: socket.socket) -> None:
    """Send back whatever comes, until standard input ends."""
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(sys.stdin, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:
                if not os.read(key.fd, 100):
                    return
            elif key.fileobj is listener:
                selector.register(listener.accept()[0], selectors.EVENT_READ)
            else:
                peer = key.fileobj
                assert isinstance(peer, socket.socket)
                if not echo(peer):
                    selector.unregister(peer)
                    peer.close()


def echo(peer: socket.socket) -> bool:
    """Send back what there is; whether there will be more."""
    try:
        data = peer.recv(65536)
        peer.sendall(data)
    except OSError:
        return False
    return bool(data)


def be_modest() -> None:
    """Do not take the processor from a client in the middle of its step, where that is known."""
    if hasattr(os, "SCHED_BATCH"):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


if __name__ == "__main__":
    be_modest()
    with listen(sys.argv[1], int(sys.argv[2])) as listener:
        print(listener.getsockname()[1], flush=True)  # noqa: T201 - the parent process reads it
        serve(listener)
