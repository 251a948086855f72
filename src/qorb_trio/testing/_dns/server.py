"""`DnsServer`: an authoritative DNS server inside the test, on real sockets."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final, final

import dns.message
import dns.rdatatype
import trio

from ... import _validation as _check
from ..._threads import Threads
from .faults import DnsAction, DnsQuery, DnsStep, FaultHook, Via, deeds
from .sockets import Peer, TcpPeer, bind, receive_udp
from .wire import parse, render, udp_limit
from .zones import ZoneLike, Zones

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["DnsAction", "DnsQuery", "DnsServer", "DnsStep"]

#: It takes about 10 ms to render this many records, so more are rendered in a thread.
_LARGE_ANSWER: Final = 100

_MAX_TCP: Final = 65535

_RENDERERS: Final = Threads("qorb_trio answers of the test nameserver", 2)


@final
class DnsServer:
    """A small authoritative DNS server for examples, demos and tests.

    It listens on UDP and TCP, on one port, while its ``async with`` block runs, or as
    a task: ``await nursery.start(server.serve)``. Its records may be changed at any
    time, and what it answers may be made wrong query by query. It needs real sockets,
    so it does not go with an autojumping clock; use a `ManualResolver` there::

        async with DnsServer(origin="test.") as server:
            server.set("_echo._tcp", "SRV", ["0 1 7001 a", "0 1 7002 b"], ttl=5)
            server.set("a", "A", "127.0.0.1")
            server.set("b", "A", "127.0.0.1")
            resolver = DnsResolver("_echo._tcp.test.", nameservers=[server.address])

    The answers are those of a correct authoritative server. NXDOMAIN differs from NODATA, and
    both have the SOA. Aliases are followed and wildcards expanded within the zone. Below a
    zone cut there are referrals. The addresses of SRV targets are additional records. EDNS is
    supported, and answers too large for UDP are truncated. Outside its zones the server
    answers REFUSED.

    The fault hook is called with each `DnsQuery`, and returns one of these, or a list
    of them to be done in order:

    * `None` or ``"answer"``: the right answer;
    * ``"drop"``: no answer;
    * a number: wait for that number of seconds, and then, unless it is in a list, answer;
    * the name of an rcode, ``"SERVFAIL"``, with nothing else in the answer;
    * ``"truncate"``: an empty answer that asks for TCP, even where that was used;
    * ``"wrong_id"``, ``"wrong_question"``, ``"garbage"``: messages that a client must not
      take for an answer;
    * ``"wrong_source"``: the right answer from another port (over TCP: none);
    * ``"close"``: close the connection (over UDP: nothing);
    * `bytes` or a `dns.message.Message`: this, as it is.

    So ``["wrong_id", 0.1, "answer"]`` is a forgery, and the right answer 0.1 s later.
    An exception in the hook ends the server, and comes out of `serve` or the block.

    Args:
      zone: a first zone to load, see `load_zone`.
      origin: the name of that zone; without `zone`, an empty zone of that name. With
        neither, the first `set` makes the server authoritative for every name.
      hosts: the IP addresses to listen on, one or several.
      port: the port, for UDP and TCP and on every host; 0 is any that is free. It is
        kept when the server is stopped and started again.
      fault: the fault hook; `None` is none. May be changed at any time.
      default_ttl: the TTL, in seconds, of records that are `set` without one.
      negative_ttl: the TTL, in seconds, of negative answers, unless a zone has a SOA of
        its own.
      udp_payload: the largest UDP message to send, in bytes, to clients that allow it
        by EDNS; others get 512.

    Raises:
      TypeError, ValueError: naming the argument that is wrong.
    """

    def __init__(
        self,
        zone: ZoneLike | None = None,
        *,
        origin: str | None = None,
        hosts: str | Iterable[str] = "127.0.0.1",
        port: int = 0,
        fault: FaultHook | None = None,
        default_ttl: int = 60,
        negative_ttl: int = 60,
        udp_payload: int = 1232,
    ) -> None:
        _check.count("port", port)
        _check.count("default_ttl", default_ttl)
        _check.count("negative_ttl", negative_ttl)
        _check.count("udp_payload", udp_payload, least=512)
        #: The fault hook; see above.
        self.fault = fault
        #: Every question that was asked, in the order of arrival; may be cleared.
        self.queries: list[DnsQuery] = []
        self._hosts = _checked_hosts(hosts)
        self._port = port
        self._udp_payload = udp_payload
        self._serving = False
        self._beside: AbstractAsyncContextManager[None] | None = None
        self._zones = Zones(default_ttl=default_ttl, negative_ttl=negative_ttl)
        if zone is not None:
            self.load_zone(zone, origin=origin)
        elif origin is not None:
            self._zones.add_zone(origin)

    # -------------------------------------------------------------------- records

    def set(
        self, name: str, rdtype: str, values: str | Iterable[str], *, ttl: int | None = None
    ) -> None:
        """Make `values` the records of that name and type, in the place of the present ones.

        Names without a final dot are relative to the zone, if the server has one only;
        ``"@"`` is the zone itself. A CNAME replaces the other records of its name, and
        they replace it.

        Args:
          name: ``"_echo._tcp"`` or ``"_echo._tcp.test."``.
          rdtype: the type, ``"SRV"``, ``"A"``, ``"AAAA"``, ``"CNAME"``, ``"SOA"``, ...
          values: one record or several, as in a zone file: ``"0 1 7001 a.test."``.
          ttl: in seconds; `None` is the server's `default_ttl`.

        Raises:
          ValueError: if a value is not such a record, or the name is in no zone of the server.
        """
        if ttl is not None:
            _check.count("ttl", ttl)
        self._zones.set(name, rdtype, values, ttl)

    def remove(self, name: str, rdtype: str | None = None) -> None:
        """Remove the records of a name, of one type or (`None`) all of them.

        Without its SOA, a zone gives negative answers that say nothing of their TTL.

        Raises:
          LookupError: if there are none.
          ValueError: if the name is in no zone of the server.
        """
        self._zones.remove(name, rdtype)

    def load_zone(self, zone: ZoneLike, *, origin: str | None = None) -> None:
        """Add a zone, or replace as a whole the one of that origin.

        Args:
          zone: a `dns.zone.Zone`, the path of a zone file, or its text; a string of one
            line is a path. A zone without a SOA gets one.
          origin: its name; not needed if there is an ``$ORIGIN`` in the text.

        Raises:
          ValueError: if it cannot be parsed.
          OSError: if the file cannot be read.
        """
        self._zones.load_zone(zone, origin)

    # -------------------------------------------------------------------- running

    @property
    def address(self) -> tuple[str, int]:
        """The first host and the port.

        Raises:
          RuntimeError: if the port is 0, and the server has not run yet.
        """
        return self.addresses[0]

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Each host with the port; raises as `address` does."""
        if self._port == 0:
            raise RuntimeError("the server has no port before it has been started")
        return [(host, self._port) for host in self._hosts]

    async def serve(
        self, task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled; ``nursery.start`` returns `address`, once it listens.

        Cancelled, it closes its sockets at once, connections included, and may then be
        run again, on the same port.

        Raises:
          OSError: if it cannot listen where it should.
          RuntimeError: if it is being served already.
        """
        if self._serving:
            raise RuntimeError("this server is running already")
        self._serving = True
        try:
            sockets, self._port = await bind(self._hosts, self._port)
            with ExitStack() as stack:
                for sock in sockets:
                    stack.enter_context(sock)
                async with trio.open_nursery() as nursery:
                    for udp, tcp in zip(sockets[::2], sockets[1::2], strict=True):
                        nursery.start_soon(self._serve_udp, udp)
                        listeners = [trio.SocketListener(tcp)]
                        nursery.start_soon(trio.serve_listeners, self._serve_tcp, listeners)
                    task_status.started(self.address)
        finally:
            self._serving = False

    async def __aenter__(self) -> DnsServer:
        beside = _served(self)
        await beside.__aenter__()
        self._beside = beside
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._beside is not None
        # All that is waited for is the end of tasks that have been cancelled.
        return await self._beside.__aexit__(exc_type, exc, traceback)  # noqa: ASYNC102

    # ------------------------------------------------------------------- answering

    async def _serve_udp(self, sock: trio.socket.SocketType) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                data, peer = await receive_udp(sock)
                self._take(data, peer, nursery)

    async def _serve_tcp(self, stream: trio.SocketStream) -> None:
        async with stream, trio.open_nursery() as nursery:
            peer = TcpPeer(stream, nursery.cancel_scope)
            while (data := await peer.receive()) is not None:
                self._take(data, peer, nursery)

    def _take(self, data: bytes, peer: Peer, nursery: trio.Nursery) -> None:
        """Note a message as it arrives, and reply to it in a task of its own."""
        message = parse(data)
        if isinstance(message, bytes):
            nursery.start_soon(peer.send, message, Via.REPLY)
        elif message is not None:
            question = message.question[0]
            query = DnsQuery(
                time=trio.current_time(),
                name=question.name.to_text(),
                type=dns.rdatatype.to_text(question.rdtype),
                transport=peer.transport,
                client=peer.client,
                message=message,
            )
            self.queries.append(query)
            nursery.start_soon(self._reply, query, peer)

    async def _reply(self, query: DnsQuery, peer: Peer) -> None:
        action = None if self.fault is None else self.fault(query)
        for deed in deeds(action, query.message):
            if isinstance(deed, float):
                await trio.sleep(deed)
            else:
                wire, via = deed
                # What is answered late is answered with the records of that time.
                await peer.send(await self._answer(query) if wire is None else wire, via)

    async def _answer(self, query: DnsQuery) -> bytes:
        response = self._zones.answer(query.message, payload=self._udp_payload)
        over_udp = query.transport == "udp"
        limit = udp_limit(query.message, self._udp_payload) if over_udp else _MAX_TCP
        if sum(map(len, response.answer)) <= _LARGE_ANSWER:
            return render(response, limit)
        try:
            return await _RENDERERS.run(render, response, limit)
        except OSError:  # the system has no thread to give
            return render(response, limit)


@asynccontextmanager
async def _served(server: DnsServer) -> AsyncIterator[None]:
    """Serve while the block runs, and let its exception out as it is, not in a group."""
    error: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(server.serve)
            yield
        except Exception as exc:  # noqa: BLE001 - raised again below
            error = exc
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error


def _checked_hosts(hosts: str | Iterable[str]) -> list[str]:
    given = [hosts] if isinstance(hosts, str) else list(hosts)
    if not given:
        raise ValueError("hosts: there must be one at least")
    for host in given:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise ValueError(f"hosts: {host!r} is not an IP address") from None
    return given


for _public in (DnsQuery, DnsServer):
    _public.__module__ = "qorb_trio.testing"
