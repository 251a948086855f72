"""Simulated backends: how they accept connections, serve requests, and die."""

from __future__ import annotations

from typing import Literal, final

import attrs
import trio

from qorb_trio import Backend, Connector

#: Number of connections that may wait to be accepted; a dial beyond that is tried again.
BACKLOG = 128
#: Seconds until a client's kernel repeats a SYN that was dropped.
SYN_RETRY = 1.0

#: The ways in which a host answers a dial.
State = Literal["up", "refuses", "hangs"]


@final
@attrs.define(eq=False)
class Link:
    """One connection from a client to a host."""

    host: Host
    client: int
    opened: float
    is_broken: bool = False


@final
@attrs.define(eq=False)
class Host:
    """One backend.

    It serves `capacity` requests at full speed; with more, each takes longer in proportion. It
    accepts at most `accept_rate` connections per second.
    """

    number: int
    backend: Backend
    connect_time: float = 0.002
    service_time: float = 0.02
    capacity: int = 64
    accept_rate: float = 2000.0
    state: State = "up"
    #: True if each request fails after a millisecond.
    fails_requests: bool = False
    links: dict[Link, None] = attrs.field(factory=dict)
    serving: int = 0
    #: Number of requests begun.
    requests: int = 0
    _accepting_from: float = 0.0

    async def accept(self) -> None:
        """Return when a dial is accepted, or raise."""
        now = trio.current_time()
        while self._accepting_from - now > BACKLOG / self.accept_rate:
            await trio.sleep(SYN_RETRY)
            now = trio.current_time()
        self._accepting_from = max(now, self._accepting_from) + 1 / self.accept_rate
        await trio.sleep(self._accepting_from - now + self.connect_time)
        if self.state == "hangs":
            await trio.sleep_forever()
        if self.state == "refuses":
            raise ConnectionRefusedError("connection refused")

    async def serve(self, link: Link, factor: float = 1.0) -> None:
        """Serve one request over a connection; `factor` times the usual work."""
        self.requests += 1
        if self.fails_requests:
            await trio.sleep(0.001)
            raise ConnectionResetError("the backend fails fast")
        self.serving += 1
        try:
            await trio.sleep(self.service_time * factor * max(1.0, self.serving / self.capacity))
        finally:
            self.serving -= 1
        if link.is_broken:
            raise ConnectionResetError("connection reset by peer")

    def stop(self, state: State = "refuses") -> None:
        """Kill the host: its connections break, and dials are refused, or hang."""
        self.state = state
        for link in self.links:
            link.is_broken = True

    def start(self) -> None:
        """Let the host accept connections again."""
        self.state = "up"
        self._accepting_from = trio.current_time()


@final
@attrs.define
class Ledger:
    """All dials and closes, with their times and the number of the host or client."""

    dials: list[tuple[float, int]] = attrs.field(factory=list)
    #: (time, host, client) of each connection that was opened.
    opened: list[tuple[float, int, int]] = attrs.field(factory=list)
    #: (time, client) of each connection that was closed while it worked.
    closed: list[tuple[float, int]] = attrs.field(factory=list)
    #: The time of each health check, where the connector notes it.
    checks: list[float] = attrs.field(factory=list)


class FleetConnector(Connector[Link]):
    """The connector of one client."""

    def __init__(self, client: int, hosts: dict[str, Host], ledger: Ledger) -> None:
        self.client = client
        self.hosts = hosts
        self.ledger = ledger

    async def connect(self, backend: Backend) -> Link:
        host = self.hosts[backend.name]
        self.ledger.dials.append((trio.current_time(), host.number))
        await host.accept()
        now = trio.current_time()
        link = Link(host, self.client, now)
        host.links[link] = None
        self.ledger.opened.append((now, host.number, self.client))
        return link

    async def disconnect(self, conn: Link) -> None:
        del conn.host.links[conn]
        if not conn.is_broken:
            self.ledger.closed.append((trio.current_time(), self.client))

    def is_broken(self, conn: Link) -> bool:
        return conn.is_broken
