"""A web service over PostgreSQL, during a switchover from one server to another.

    python examples/postgres_failover.py

A primary and its standby run on this machine. A small HTTP service stores each visit by way of a
pool that knows both, and wants the one that accepts writes. In the middle of the visits the
primary is stopped and the standby promoted. At the end there is an account of all visits: which
server has stored them, how long nobody was served, and whether a visit is missing.

The part that a program needs is at the top. The rest is a stage for it.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeAlias

import attrs
import h11
import httpx  # noqa: ASYNC127 - httpx2 works in its place
import psycopg
import trio

import qorb_trio
from postgres_servers import Server, primary_and_standby, programs
from qorb_trio.postgres import PostgresConnection, PostgresConnector

Pool: TypeAlias = "qorb_trio.Pool[PostgresConnection[Any]]"

VISITORS = 10
SECONDS = 6.0
#: Seconds within which a visit is stored, or its visitor told that it is not.
PATIENCE = 8.0


# --- The service: this is what one writes. ------------------------------------------------


@asynccontextmanager
async def open_database(addresses: list[tuple[str, int]]) -> AsyncIterator[Pool]:
    """Open a pool at the server that accepts writes at present."""
    resolver = qorb_trio.FixedResolver(addresses)
    connector = PostgresConnector("user=web dbname=postgres", target_session_attrs="read-write")
    async with (
        trio.open_nursery() as nursery,
        qorb_trio.open_pool(nursery, resolver, connector, name="visits") as pool,
    ):
        yield pool


async def store(pool: Pool, visit: int) -> int:
    """Store a visit, and return the port of the server that has it.

    A statement whose connection is lost may have been carried out or not. This one can be
    repeated, so it is, on another connection, and for as long as anybody waits for the answer: a
    server that shuts down ends its sessions one after another.
    """
    give_up = trio.current_time() + PATIENCE
    while True:  # noqa: ASYNC913 - each round waits for a connection
        try:
            return await store_once(pool, visit, max(give_up - trio.current_time(), 0))
        except psycopg.OperationalError:
            if trio.current_time() >= give_up:
                raise


async def store_once(pool: Pool, visit: int, timeout: float) -> int:
    """Store a visit that may be there already."""
    async with pool.claim(timeout=timeout) as conn:
        await conn.execute("INSERT INTO visits VALUES (%s) ON CONFLICT DO NOTHING", [visit])
        return conn.info.port


async def serve(pool: Pool, stream: trio.SocketStream) -> None:
    """Serve one HTTP client."""
    with suppress(trio.BrokenResourceError):  # the client has left in the middle
        await serve_requests(pool, stream)


async def serve_requests(pool: Pool, stream: trio.SocketStream) -> None:
    """Answer requests: ``GET /42`` stores visit 42."""
    http = h11.Connection(h11.SERVER)
    path = ""
    while True:  # noqa: ASYNC913 - each round waits, or consumes what has arrived
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await stream.receive_some())
        elif isinstance(event, h11.Request):
            path = event.target.decode()
        elif isinstance(event, h11.EndOfMessage):
            await respond(http, stream, *await answer(pool, path))
            http.start_next_cycle()
        else:  # the client has left
            return


async def answer(pool: Pool, path: str) -> tuple[int, str]:
    """Return the status and the text of a response."""
    try:
        return 200, str(await store(pool, int(path.removeprefix("/"))))
    except (psycopg.Error, qorb_trio.ClaimError) as exc:
        return 503, repr(exc)


async def respond(http: h11.Connection, stream: trio.SocketStream, status: int, text: str) -> None:
    """Send a response."""
    body = text.encode()
    headers = [("Content-Length", str(len(body)))]
    events = [h11.Response(status_code=status, headers=headers), h11.Data(data=body)]
    await stream.send_all(b"".join(http.send(one) or b"" for one in [*events, h11.EndOfMessage()]))


# --- The stage. --------------------------------------------------------------------------


@attrs.define
class Account:
    """The fate of each visit."""

    stored: dict[int, int] = attrs.field(factory=dict)
    """The port of the server that has stored each visit."""
    failed: list[str] = attrs.field(factory=list)
    """What the service has said of each visit that it could not store."""
    longest_gap: float = 0.0
    _last: float = attrs.field(factory=trio.current_time)

    def note(self, visit: int, response: httpx.Response) -> None:
        """Note an answer."""
        if response.status_code != httpx.codes.OK:
            self.failed.append(f"visit {visit}: {response.text}")
            return
        now = trio.current_time()
        self.stored[visit] = int(response.text)
        self.longest_gap = max(self.longest_gap, now - self._last)
        self._last = now


async def visitor(first: int, client: httpx.AsyncClient, account: Account) -> None:
    """Visit again and again, with another number each time."""
    visit = first
    while True:
        account.note(visit, await client.get(f"/{visit}"))
        visit += VISITORS
        await trio.sleep(0.01)


async def switch_over(primary: Server, standby: Server, account: Account) -> None:
    """Stop the primary in the middle of everything, and promote the standby."""
    await trio.sleep(SECONDS / 3)
    print(f"after {len(account.stored)} visits the primary, port {primary.port}, is stopped")
    await primary.stop()
    print(f"the standby, port {standby.port}, is promoted")
    await standby.promote()
    await trio.sleep(SECONDS * 2 / 3)


async def play(primary: Server, standby: Server) -> Account:
    """Run the service and its visitors during the switchover."""
    addresses = [("127.0.0.1", server.port) for server in (primary, standby)]
    async with open_database(addresses) as pool, trio.open_nursery() as service:
        listeners: list[trio.SocketListener] = await service.start(
            partial(trio.serve_tcp, partial(serve, pool), 0, host="127.0.0.1")
        )
        port = listeners[0].socket.getsockname()[1]
        account = await let_visit(f"http://127.0.0.1:{port}", primary, standby)
        service.cancel_scope.cancel()
    return account


async def let_visit(url: str, primary: Server, standby: Server) -> Account:
    """Let visitors come and go during the switchover."""
    async with (
        httpx.AsyncClient(base_url=url, timeout=10) as client,
        trio.open_nursery() as nursery,
    ):
        account = Account()
        for number in range(VISITORS):
            nursery.start_soon(visitor, number, client, account)
        await switch_over(primary, standby, account)
        nursery.cancel_scope.cancel()
    return account


async def main() -> int:
    """Run all of it; return the exit status."""
    folder = programs()
    if folder is None:
        print("this example needs PostgreSQL: apt install postgresql", file=sys.stderr)
        return 2
    async with primary_and_standby(folder) as (primary, standby):
        await primary.ask("CREATE TABLE visits (number int PRIMARY KEY)")
        account = await play(primary, standby)
        rows = await standby.ask("SELECT number FROM visits")
    missing = set(account.stored) - {number for (number,) in rows}
    ports = list(account.stored.values())
    for server in (primary, standby):
        print(f"  {ports.count(server.port)} visits stored by the {server.name}")
    print(f"  {len(account.failed)} failed, {len(missing)} missing")
    print(f"  longest time without an answer: {account.longest_gap:.2f} s")
    for line in account.failed[:5]:
        print(f"  failed: {line}")
    return 1 if account.failed or missing else 0


if __name__ == "__main__":
    sys.exit(trio.run(main))
