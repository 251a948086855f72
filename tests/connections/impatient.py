"""Servers that close idle connections, and a day with them, in virtual time."""

from __future__ import annotations

import logging
import math
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import attrs
import trio

from qorb_trio import (
    Backend,
    Connector,
    FixedResolver,
    Policy,
    SetConfig,
    StaleConnectionError,
    open_pool,
)

PRIMARY = Backend(("a.test", 1), name="primary")
STANDBY = Backend(("b.test", 1), name="standby", priority=1)

#: The seconds after which the primary closes an idle connection.
PATIENCE = 5.0

#: The number of claims in a day, and the seconds from one to the next.
CLAIMS_OF_A_DAY = 14_400
PAUSE = 6.0


class Conn:
    """A connection that a server closes when it has been idle for a while."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.used_at = trio.current_time()

    def use(self) -> None:
        """Exchange something."""
        self.used_at = trio.current_time()


class Impatient(Connector[Conn]):
    """Servers that close idle connections, each after its own time."""

    def __init__(
        self,
        patience: dict[str, float],
        *,
        says_why: bool,
        reason: type[Exception] = StaleConnectionError,
    ) -> None:
        self.patience = patience
        self.says_why = says_why
        self.reason = reason
        self.dials = 0

    async def connect(self, backend: Backend) -> Conn:
        """Take 5 ms."""
        self.dials += 1
        await trio.sleep(0.005)
        return Conn(backend)

    def is_broken(self, conn: Conn) -> bool:
        """Tell whether the server has closed it, and why if asked to."""
        idle = trio.current_time() - conn.used_at
        closed = idle >= self.patience[conn.backend.name]
        if closed and self.says_why:
            raise self.reason("closed by the peer")
        return closed


class WatchedConn(Conn):
    """A connection with a descriptor, at which a pool can notice that the server closes it."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self.ours, self.theirs = socket.socketpair()
        self.gone = trio.Event()


class WatchedImpatient(Impatient):
    """The same servers, whose closes the pool can notice at once."""

    def __init__(self, patience: dict[str, float], nursery: trio.Nursery) -> None:
        super().__init__(patience, says_why=True)
        self._nursery = nursery

    async def connect(self, backend: Backend) -> Conn:
        """Connect, and let the server begin to watch the time."""
        await super().connect(backend)
        conn = WatchedConn(backend)
        self._nursery.start_soon(self._serve, conn)
        return conn

    async def _serve(self, conn: WatchedConn) -> None:
        patience = self.patience[conn.backend.name]
        with conn.theirs:
            while not conn.gone.is_set() and trio.current_time() < conn.used_at + patience:
                with trio.move_on_at(conn.used_at + patience):
                    await conn.gone.wait()

    def fileno(self, conn: Conn) -> int | None:
        """Return the descriptor of this end."""
        assert isinstance(conn, WatchedConn)
        return conn.ours.fileno()

    async def disconnect(self, conn: Conn) -> None:
        """Close this end."""
        assert isinstance(conn, WatchedConn)
        conn.ours.close()
        conn.gone.set()


@final
@attrs.define
class Day(logging.Handler):
    """The account of a day, or of a part of one."""

    served: Counter[str] = attrs.field(factory=Counter)
    """The number of claims that each backend served."""

    lines: list[str] = attrs.field(factory=list)
    """The lines of the log, from INFO on."""

    stale: int = 0
    failures: int = 0
    longest_wait: float = 0.0

    def __attrs_pre_init__(self) -> None:
        super().__init__(logging.INFO)

    __hash__ = logging.Handler.__hash__

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append(f"{record.levelname} {record.getMessage()}")

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear the log of the package within the block."""
        logger = logging.getLogger("qorb_trio")
        level = logger.level
        logger.addHandler(self)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.setLevel(level)
            logger.removeHandler(self)

    def __str__(self) -> str:
        return (
            f"{self.served.total():,} claims, of which {self.served['standby']:,} went to the"
            f" standby; {self.stale:,} connections were closed by the peer, and"
            f" {self.failures:,} failures counted; the longest wait was {self.longest_wait:.3g} s;"
            f" {len(self.lines)} lines of log"
        )


async def spend_a_day(
    *, claims: int = CLAIMS_OF_A_DAY, spares: int = 8, says_why: bool = True, watched: bool = False
) -> Day:
    """Claim every six seconds, at a primary that closes connections after five."""
    day = Day()
    patience = {"primary": PATIENCE, "standby": math.inf}
    policy = Policy(spares_wanted=spares, set_config=SetConfig(health_interval=math.inf))
    with day.listening():
        async with trio.open_nursery() as nursery:
            connector: Impatient = Impatient(patience, says_why=says_why)
            if watched:
                connector = WatchedImpatient(patience, nursery)
            resolver = FixedResolver([PRIMARY, STANDBY])
            async with open_pool(nursery, resolver, connector, policy=policy) as pool:
                for _ in range(claims):
                    asked = trio.current_time()
                    async with pool.claim() as conn:
                        day.longest_wait = max(day.longest_wait, trio.current_time() - asked)
                        day.served[conn.backend.name] += 1
                        conn.use()
                    await trio.sleep(PAUSE)
                primary = pool.stats().backends["primary"]
                day.stale, day.failures = primary.stale, primary.failures
                assert primary.last_error is None
            nursery.cancel_scope.cancel()
    return day
