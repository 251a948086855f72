"""A primary and a replica that change roles while requests are on their way.

    python examples/failover.py

Two servers of a small line protocol run in this process, and a DNS server names both. Only the
primary accepts orders. The servers change roles twice: the primary becomes a replica, and half a
second later the other server is promoted. The demoted server keeps its connections open, so it is
the connector that has to keep the pool away from it. At the end there is an account of every
order: each was stored once, or was withdrawn by its client, and none has failed.

`Session`, `PrimaryConnector` and `place` are what a program needs. The rest is a stage for them.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio

import qorb_trio
from qorb_trio.testing import DnsServer

SERVICE = "_orders._tcp.test.com."
WORKERS = 8
SECONDS = 4.0
WITHOUT_PRIMARY = 0.5
TRIES = 4


# --- The client: this is what one writes. ------------------------------------------------


class NotPrimaryError(Exception):
    """The server is a replica, and has refused the order. So it is safe to place it again."""


class WithdrawnError(Exception):
    """The client has changed its mind in the middle of a transaction."""


@attrs.define(eq=False)
class Session:
    """A connection on which one line asks and one line answers."""

    stream: trio.SocketStream
    backend: qorb_trio.Backend
    in_transaction: bool = False

    async def ask(self, line: str) -> str:
        """Send a line, and return the answer.

        Raises:
          NotPrimaryError: the server does not accept orders.
        """
        await self.stream.send_all(line.encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            chunk = await self.stream.receive_some()
            if not chunk:
                raise ConnectionError("the server hung up")
            answer += chunk
        if answer == b"READONLY\n":
            self.in_transaction = False  # a replica has dropped it
            raise NotPrimaryError(self.backend.name)
        self.in_transaction = line == "BEGIN" or (self.in_transaction and line != "COMMIT")
        return answer.decode().strip()


class PrimaryConnector(qorb_trio.Connector[Session]):
    """Sessions at the server that is the primary at present.

    A server that says on one session that it is a replica is one on all of them. So its other
    sessions are not lent either, although their sockets are fine.
    """

    def __init__(self) -> None:
        self._tcp = qorb_trio.TcpConnector()
        self._replicas: set[qorb_trio.Backend] = set()
        self.rollbacks = 0
        self.unfinished = 0

    async def connect(self, backend: qorb_trio.Backend) -> Session:
        """Open a session, if the server is the primary."""
        session = Session(await self._tcp.connect(backend), backend)
        try:
            if await session.ask("ROLE") != "primary":
                raise qorb_trio.IneligibleBackendError(f"{backend.name} is a replica")
        except BaseException:  # a cancellation too: the pool does not know of this stream yet
            await trio.aclose_forcefully(session.stream)
            raise
        self._replicas.discard(backend)
        return session

    def is_broken(self, conn: Session) -> bool:
        """Keep the sessions of a demoted server from being lent."""
        if conn.backend in self._replicas:
            raise qorb_trio.IneligibleBackendError(f"{conn.backend.name} has become a replica")
        return self._tcp.is_broken(conn.stream)

    def should_recycle(self, conn: Session, exc: BaseException | None) -> bool:
        """Keep a session whose exchange was complete, although the body raised."""
        if isinstance(exc, NotPrimaryError):
            self._replicas.add(conn.backend)
        return exc is None or isinstance(exc, WithdrawnError)

    def needs_recycle(self, conn: Session) -> bool:
        """Clean only where a transaction was left open: most returns cost no task."""
        return conn.in_transaction

    async def on_recycle(self, conn: Session) -> None:
        """Undo what the last claimant has left unfinished."""
        try:
            await conn.ask("ROLLBACK")
        except NotPrimaryError:  # its server has undone it, but is not to be used any more
            self._replicas.add(conn.backend)
        conn.in_transaction = False
        self.rollbacks += 1

    async def disconnect(self, conn: Session) -> None:
        """Close a session. A transaction that is open ends with it."""
        self.unfinished += conn.in_transaction
        await conn.stream.aclose()


async def place(pool: qorb_trio.Pool[Session], order: int, *, is_withdrawn: bool) -> int:
    """Place an order, again if a replica has refused it; return the number of tries.

    Raises:
      WithdrawnError: the order was not placed, because `is_withdrawn`.
    """
    for number in range(1, TRIES):
        try:
            await place_once(pool, order, is_withdrawn=is_withdrawn)
        except NotPrimaryError:
            continue
        return number
    await place_once(pool, order, is_withdrawn=is_withdrawn)
    return TRIES


async def place_once(pool: qorb_trio.Pool[Session], order: int, *, is_withdrawn: bool) -> None:
    """Place an order in a transaction."""
    async with pool.claim(timeout=5, label=f"order {order}") as session:
        await session.ask("BEGIN")
        await session.ask(f"ADD {order}")
        if is_withdrawn:
            raise WithdrawnError
        await session.ask("COMMIT")


# --- The stage: two servers that share their orders. -------------------------------------


@attrs.define(eq=False)
class Server:
    """A server that keeps orders, if it is the primary."""

    name: str
    orders: list[tuple[str, int]]
    """What has been committed, with the name of the server. The replica has it too."""
    is_primary: bool = False

    async def serve(self, stream: trio.SocketStream) -> None:
        """Answer lines until the client hangs up."""
        pending: list[int] = []
        try:
            async for data in stream:
                for line in data.decode().splitlines():
                    await stream.send_all(self.answer(line, pending).encode() + b"\n")
        except trio.BrokenResourceError:
            pass  # the client is gone

    def answer(self, line: str, pending: list[int]) -> str:
        """Return the answer to a line. `pending` are the orders of the open transaction."""
        if line == "ROLE":
            return "primary" if self.is_primary else "replica"
        if not self.is_primary:
            pending.clear()
            return "READONLY"
        if line.startswith("ADD "):
            pending.append(int(line.split()[1]))
        else:
            if line == "COMMIT":
                self.orders += [(self.name, order) for order in pending]
            pending.clear()
        return "OK"


@asynccontextmanager
async def stage() -> AsyncIterator[tuple[list[Server], qorb_trio.Resolver]]:
    """Run two servers, and a DNS server that names both."""
    orders: list[tuple[str, int]] = []
    servers = [Server("db1", orders, is_primary=True), Server("db2", orders)]
    async with DnsServer(origin="test.com.") as dns, trio.open_nursery() as nursery:
        records = []
        for server in servers:
            listeners: list[trio.SocketListener] = await nursery.start(
                partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1")
            )
            records.append(f"0 1 {listeners[0].socket.getsockname()[1]} {server.name}")
            dns.set(server.name, "A", "127.0.0.1")
        dns.set("_orders._tcp", "SRV", records)
        yield servers, qorb_trio.DnsResolver(SERVICE, nameservers=[dns.address])
        nursery.cancel_scope.cancel()


@attrs.define
class Account:
    """The fate of each order."""

    placed: dict[int, int] = attrs.field(factory=dict)
    """The number of tries that each one took."""
    withdrawn: set[int] = attrs.field(factory=set)
    failed: list[str] = attrs.field(factory=list)
    longest_gap: float = 0.0
    _last: float = attrs.field(factory=trio.current_time)

    def note(self, order: int, tries: int) -> None:
        """Note an order that was placed."""
        now = trio.current_time()
        self.placed[order] = tries
        self.longest_gap = max(self.longest_gap, now - self._last)
        self._last = now


async def client(
    first: int, pool: qorb_trio.Pool[Session], account: Account, stop: trio.Event
) -> None:
    """Place one order after another. Each tenth is withdrawn."""
    order = first
    while not stop.is_set():
        try:
            account.note(order, await place(pool, order, is_withdrawn=order % 10 == 0))
        except WithdrawnError:
            account.withdrawn.add(order)
        except (qorb_trio.ClaimError, NotPrimaryError, OSError) as exc:
            account.failed.append(f"order {order}: {exc!r}")
        order += WORKERS
        await trio.sleep(0.01)


async def change_roles(old: Server, new: Server) -> None:
    """Demote one server, and promote the other one a while later."""
    print(f"{old.name} becomes a replica")
    old.is_primary = False
    await trio.sleep(WITHOUT_PRIMARY)
    print(f"{new.name} becomes the primary")
    new.is_primary = True


async def play(servers: list[Server], pool: qorb_trio.Pool[Session]) -> Account:
    """Let clients place orders while the servers change roles twice."""
    account, stop = Account(), trio.Event()
    async with trio.open_nursery() as nursery:
        for number in range(WORKERS):
            nursery.start_soon(client, number, pool, account, stop)
        for old, new in (servers, servers[::-1]):
            await trio.sleep(SECONDS / 3)
            await change_roles(old, new)
        await trio.sleep(SECONDS / 3)
        stop.set()
    return account


def report(
    account: Account, orders: list[tuple[str, int]], rollbacks: int, unfinished: int
) -> bool:
    """Print the account; return True if each order has the fate that it should have.

    The transaction of each withdrawn order was rolled back, or has ended with its session: those
    of a demoted server are closed as they are.
    """
    stored = Counter(order for _, order in orders)
    missing = account.placed.keys() - stored.keys()
    wrong = [order for order in stored if stored[order] > 1 or order in account.withdrawn]
    for name, count in sorted(Counter(name for name, _ in orders).items()):
        print(f"  {count} orders stored by {name}")
    again = sum(tries > 1 for tries in account.placed.values())
    print(f"  {again} of them were refused by a replica first")
    withdrawn = len(account.withdrawn)
    print(f"  {withdrawn} withdrawn, {rollbacks} rolled back, {unfinished} ended by a close")
    print(f"  {len(account.failed)} failed, {len(missing)} missing, {len(wrong)} wrong")
    print(f"  longest time in which no order was placed: {account.longest_gap:.2f} s")
    for line in account.failed[:5]:
        print(f"  failed: {line}")
    return withdrawn == rollbacks + unfinished and not (account.failed or missing or wrong)


async def main() -> int:
    """Run all of it; return the exit status."""
    connector = PrimaryConnector()
    policy = qorb_trio.Policy(spares_wanted=4)
    async with (
        stage() as (servers, resolver),
        trio.open_nursery() as nursery,
        qorb_trio.open_pool(nursery, resolver, connector, policy=policy, name="orders") as pool,
    ):
        account = await play(servers, pool)
    orders, undone = servers[0].orders, (connector.rollbacks, connector.unfinished)
    return 0 if report(account, orders, *undone) else 1


if __name__ == "__main__":
    sys.exit(trio.run(main))
