"""A connector for a protocol of one's own: the twenty lines that teach a pool to speak it.

    python examples/custom_connector.py

The protocol has a line for each request and a line for each reply, begins with a
handshake, and keeps state for each connection (variables that a client sets): the kind of
state that must never reach the next claimant. The connector is `NotesConnector`. What is
above it is what any client of such a server has anyhow; what is below it is a small server
to run against, and a program that shows the hooks at work.
"""

from __future__ import annotations

from functools import partial

import attrs
import trio

import qorb_trio


@attrs.define(eq=False)
class Lines:
    """Lines of text over a TCP connection. Both sides use it."""

    stream: trio.SocketStream
    unread: bytearray = attrs.field(factory=bytearray, init=False)
    """What has been received beyond the last line."""

    async def send(self, line: str) -> None:
        """Send one line."""
        await self.stream.send_all(line.encode() + b"\n")

    async def receive(self) -> str:
        """The next line, or `ConnectionError` if there is none to come."""
        while b"\n" not in self.unread:
            chunk = await self.stream.receive_some()
            if not chunk:
                raise ConnectionError("the other side hung up")
            self.unread += chunk
        line, _, self.unread = self.unread.partition(b"\n")
        return line.decode()

    async def ask(self, request: str) -> str:
        """Send one line and return the line that answers it."""
        await self.send(request)
        return await self.receive()


# --- The connector: this is what one writes for a protocol of one's own. ---------------


class NotesConnector(qorb_trio.Connector[Lines]):
    """Connections to servers of notes: shake hands, ping, and forget between claims."""

    tcp = qorb_trio.TcpConnector()

    async def connect(self, backend: qorb_trio.Backend) -> Lines:
        """Connect and shake hands. The pool bounds the time, and retries with back-off."""
        stream = await self.tcp.connect(backend)
        try:
            lines = Lines(stream)
            if await lines.ask("HELLO") != "WELCOME":
                raise ConnectionError(f"{backend.name} does not speak this protocol")
        except BaseException:
            # Until `connect` returns, only this method knows of the stream. If anything goes
            # wrong here, even a cancellation, this method must close it.
            await trio.aclose_forcefully(stream)
            raise
        return lines

    async def is_valid(self, conn: Lines) -> bool:
        """Asked of a connection that has been idle for a while."""
        return await conn.ask("PING") == "PONG"

    async def on_recycle(self, conn: Lines) -> None:
        """Clean a connection that comes back, off the claimant's path."""
        if await conn.ask("FORGET") != "FORGOTTEN":
            raise ConnectionError("it does not forget")

    async def disconnect(self, conn: Lines) -> None:
        """Close it. The pool calls this once for each connection, and bounds its time too."""
        await self.tcp.disconnect(conn.stream)

    def is_broken(self, conn: Lines) -> bool:
        """Raise the reason at once if it has died, or if a reply was left unread."""
        if conn.unread:
            raise qorb_trio.MisusedConnectionError(f"{len(conn.unread)} bytes were left unread")
        return self.tcp.is_broken(conn.stream)

    def fileno(self, conn: Lines) -> int | None:
        """Return the descriptor on which the pool notices that the server closes it."""
        return self.tcp.fileno(conn.stream)


# --- A server of notes, to run it against. ---------------------------------------------


async def serve_notes(stream: trio.SocketStream) -> None:
    """Serve one client: ``SET note text``, ``GET note``, ``FORGET`` them all, ``PING``."""
    notes: dict[str, str] = {}
    lines = Lines(stream)
    try:
        if await lines.receive() == "HELLO":
            await lines.send("WELCOME")
            while True:
                await lines.send(answer(await lines.receive(), notes))
    except (ConnectionError, trio.BrokenResourceError):
        pass  # The client has left.


def answer(line: str, notes: dict[str, str]) -> str:
    """The reply to one request."""
    match line.split(maxsplit=2):
        case ["SET", note, text]:
            notes[note] = text
            return "NOTED"
        case ["GET", note]:
            return notes.get(note, "NOTHING")
        case ["FORGET"]:
            notes.clear()
            return "FORGOTTEN"
        case ["PING"]:
            return "PONG"
        case _:
            return "WHAT?"


# --- What it looks like in use. --------------------------------------------------------


async def main() -> None:
    """Start two servers, open a pool on them, and look at what a second claim finds."""
    async with trio.open_nursery() as nursery:
        addresses = [await start_server(nursery) for _ in range(2)]
        resolver = qorb_trio.FixedResolver(addresses)
        policy = qorb_trio.Policy(max_slots=2, spares_wanted=0)
        async with qorb_trio.open_pool(
            nursery, resolver, NotesConnector(), policy=policy, name="notes"
        ) as pool:
            await use(pool)
        nursery.cancel_scope.cancel()  # The servers are not needed any longer.


async def start_server(nursery: trio.Nursery) -> tuple[str, int]:
    """Start a server of notes on any free port, and tell its address."""
    listeners: list[trio.SocketListener] = await nursery.start(
        partial(trio.serve_tcp, serve_notes, 0, host="127.0.0.1")
    )
    host, port = listeners[0].socket.getsockname()
    return host, port


async def use(pool: qorb_trio.Pool[Lines]) -> None:
    """Leave a note in one claim, and look for it in all those that come after."""
    async with pool.claim() as conn:
        print("the first claim sets a note:", await conn.ask("SET secret swordfish"))
        print("and reads it again:         ", await conn.ask("GET secret"))
    for number in range(2, 5):
        async with pool.claim() as conn:
            print(f"claim {number} looks for the note: ", await conn.ask("GET secret"))
    for name, stats in pool.stats().backends.items():
        print(f"{name}: {stats.total_claims} claims, {stats.failures} failures")


if __name__ == "__main__":
    trio.run(main)
