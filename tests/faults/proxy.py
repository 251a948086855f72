"""A TCP proxy that passes bytes on, until it is told to do it badly."""

from __future__ import annotations

import enum
import random
import socket
import struct
from typing import Final

import attrs
import trio

RESETTING_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time


class Fault(enum.Enum):
    """A fault that a proxy inflicts on its existing connections and on new ones."""

    DELAY = "every chunk takes its time"
    STALL = "nothing passes until the fault is over, and then everything does"
    RESET = "connections are reset (RST)"
    HALF_CLOSE = "the server seems to have said its last (FIN), and still reads"
    TRUNCATE = "replies are cut in two: the first half, then the end"
    CORRUPT = "one bit of each reply is turned over"
    BLACKHOLE = "what is sent vanishes"


@attrs.define(eq=False)
class Link:
    """A connection through the proxy."""

    client: trio.SocketStream
    server: trio.SocketStream | None = None
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    half_closed: bool = False
    used_at: float = attrs.field(factory=trio.current_time)
    """When something passed last."""

    def sockets(self) -> list[int]:
        """The descriptors that belong to it."""
        streams = [self.client, self.server]
        return [stream.socket.fileno() for stream in streams if stream is not None]

    def reset(self) -> None:
        """End it as a crashed host does, that has come back and knows nothing."""
        self.client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETTING_CLOSE)
        self.client.socket.close()
        self.scope.cancel()

    def half_close(self) -> None:
        """End the replies to the client (FIN), but go on reading its requests."""
        self.half_closed = True
        try:
            self.client.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the client was quicker


@attrs.define(eq=False)
class FaultProxy:
    """A proxy that forwards connections to `address` to `target`.

    Start it with ``await nursery.start(proxy.serve)``. It serves until that task ends, and
    then closes all its connections.
    """

    target: tuple[str, int]
    """The address of the server; it may be changed for later connections."""
    rng: random.Random = attrs.field(factory=lambda: random.Random(0))
    delay: float = 0.05
    """Seconds that a chunk takes under `Fault.DELAY`."""
    links: set[Link] = attrs.field(factory=set, init=False)
    address: tuple[str, int] = attrs.field(default=("", 0), init=False)
    fault: Fault | None = attrs.field(default=None, init=False)
    _odds: float = attrs.field(default=1.0, init=False)
    _over: trio.Event = attrs.field(factory=trio.Event, init=False)

    def inflict(self, fault: Fault, *, odds: float = 1.0) -> None:
        """Inflict a fault from now on, on the part `odds` of the connections or chunks."""
        self.heal()
        self.fault, self._odds, self._over = fault, odds, trio.Event()
        for link in list(self.links):
            self._strike(link)

    def heal(self) -> None:
        """Stop the fault. Connections that were reset or closed stay so."""
        self.fault = None
        self._over.set()

    def close_idle(self, seconds: float) -> int:
        """Close the connections that have been idle for `seconds`, and return their number."""
        late = trio.current_time() - seconds
        idle = [link for link in self.links if link.used_at <= late]
        for link in idle:
            link.scope.cancel()
        return len(idle)

    async def serve(
        self, task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen on any free port of this host, and report the address to `task_status`."""
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.address = listener.socket.getsockname()
        async with listener:
            task_status.started(self.address)
            await trio.serve_listeners(self._pass_on, [listener])

    def _strike(self, link: Link) -> None:
        """Do what is done to whole connections."""
        if self.fault is Fault.RESET and self._hit():
            link.reset()
        elif self.fault is Fault.HALF_CLOSE and self._hit():
            link.half_close()

    def _hit(self) -> bool:
        return self.rng.random() < self._odds

    async def _pass_on(self, client: trio.SocketStream) -> None:
        link = Link(client)
        self.links.add(link)
        try:
            with link.scope:
                self._strike(link)
                link.server = await trio.open_tcp_stream(*self.target)
                async with link.server, trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, link, client, link.server)
                    nursery.start_soon(self._pump, link, link.server, client)
        except OSError:
            pass  # nobody is there: the client will see the end
        finally:
            self.links.discard(link)

    async def _pump(self, link: Link, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        """Pass on in one direction; the end of one is the end of both."""
        is_reply = source is link.server
        try:
            async for data in source:
                link.used_at = trio.current_time()
                if is_reply and link.half_closed:
                    continue
                await self._treat(bytes(data), sink, is_reply)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        link.scope.cancel()

    async def _treat(self, data: bytes, sink: trio.SocketStream, is_reply: bool) -> None:
        fault = self.fault if self._hit() else None
        match fault:
            case Fault.DELAY:
                await trio.sleep(self.delay)
            case Fault.STALL:
                await self._over.wait()
            case Fault.BLACKHOLE:
                return
            case Fault.TRUNCATE if is_reply:
                await sink.send_all(data[: len(data) // 2])
                await sink.send_eof()
                raise trio.ClosedResourceError
            case Fault.CORRUPT if is_reply:
                place = self.rng.randrange(len(data))
                data = data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]
        await sink.send_all(data)
