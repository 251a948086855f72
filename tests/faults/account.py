"""The account of all connections: kept beside the pool, which knows nothing of it.

It takes down every connection as it is opened, held and closed, and every fault that the
pool commits: a connection closed twice or never, held by two, one too many.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import attrs

from qorb_trio import Backend, Policy

from .echo import Echo, EchoConnector


@attrs.define(eq=False)
class Account:
    """A record of the connections opened and closed, and of their holders."""

    max_slots: float = math.inf
    max_count: float = math.inf
    opened: int = 0
    closed: int = 0
    dials: int = 0
    live: dict[Echo, str | None] = attrs.field(factory=dict)
    """The connections that are open or closing, and who holds them."""
    load: Counter[Backend] = attrs.field(factory=Counter)
    """The connections that are opening, open or closing, by backend."""
    violations: list[str] = attrs.field(factory=list)

    def begin(self, backend: Backend) -> None:
        """A dial begins."""
        self.dials += 1
        self.load[backend] += 1
        if self.load.total() > self.max_slots:
            self.violations.append(f"{self.load.total()} connections, {self.max_slots} allowed")
        if self.load[backend] > self.max_count:
            self.violations.append(f"{self.load[backend]} connections to {backend.name}")

    def give_up(self, backend: Backend) -> None:
        """A dial has failed, or a connection is closed."""
        self.load[backend] -= 1
        if not self.load[backend]:
            del self.load[backend]

    def open(self, conn: Echo) -> None:
        """A dial has succeeded."""
        self.opened += 1
        self.live[conn] = None

    def begin_close(self, conn: Echo) -> None:
        """The pool closes a connection."""
        if conn not in self.live:
            self.violations.append(f"a connection to {conn.backend.name} was closed twice")
        self.violations += [f"wrong reply: {wrong}" for wrong in conn.wrong]
        conn.wrong.clear()

    def close(self, conn: Echo) -> None:
        """Record that a connection is closed."""
        if conn in self.live:
            self.closed += 1
            del self.live[conn]
            self.give_up(conn.backend)

    @contextmanager
    def holding(self, conn: Echo, who: str) -> Iterator[None]:
        """`who` has the connection while the block runs."""
        holder = self.live.get(conn, "nobody, as it is closed")
        if holder is not None:
            self.violations.append(f"{who} is given a connection of {holder}")
        if conn in self.live:
            self.live[conn] = who
        try:
            yield
        finally:
            if conn in self.live:
                self.live[conn] = None

    def at_the_end(self) -> list[str]:
        """Everything that was wrong, once the pool has ended."""
        left = [f"a connection to {conn.backend.name} was never closed" for conn in self.live]
        if self.load and not left:
            left = [f"a dial has never ended: {dict(self.load)}"]
        return [*self.violations, *left]


class AccountedConnector(EchoConnector):
    """An `EchoConnector` that keeps an account."""

    def __init__(self, policy: Policy | None = None, *, greets: bool = True) -> None:
        super().__init__(greets=greets)
        self.account = Account()
        if policy is not None:
            self.account.max_slots = policy.max_slots
            self.account.max_count = policy.set_config.max_count

    async def connect(self, backend: Backend) -> Echo:
        """Connect, and take it down."""
        self.account.begin(backend)
        try:
            conn = await super().connect(backend)
        except BaseException:
            self.account.give_up(backend)
            raise
        self.account.open(conn)
        return conn

    async def disconnect(self, conn: Echo) -> None:
        """Close it, and take it down."""
        self.account.begin_close(conn)
        try:
            await super().disconnect(conn)
        finally:
            self.account.close(conn)
