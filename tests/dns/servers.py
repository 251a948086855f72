"""Real nameservers as processes of the test: knot, and unbound as a cache in front."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.update
import pytest
import trio

#: The zone of qorb's examples, as it is there but for the ports.
QORB_ZONE = """\
@   IN          SOA     test.com. root.test.com. (
                                199609203 ; Serial
                                8h        ; Refresh
                                120m      ; Retry
                                7d        ; Expire
                                24h)      ; Minimum TTL

; name                ttl  class  rr     ipv6
echo001                    IN     AAAA   ::1
echo002                    IN     AAAA   ::1
echo003                    IN     AAAA   ::1

; name                ttl  class  rr    Priority Weight Port   Target
_echo._tcp.test.com.       IN     SRV   1        1      6001  echo001
_echo._tcp.test.com.       IN     SRV   1        1      6002  echo002
_echo._tcp.test.com.       IN     SRV   1        1      6003  echo003
"""

KNOT_CONF = """\
server:
    rundir: "{dir}/run"
    listen: [127.0.0.1@{port}, ::1@{port}]
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
control:
    listen: "{dir}/run/knot.sock"
database:
    storage: "{dir}/db"
acl:
  - id: upd
    address: [127.0.0.0/8, ::1]
    action: [update, transfer]
template:
  - id: default
    storage: "{dir}/zones"
    file: "%s.zone"
    zonefile-sync: -1
    zonefile-load: whole
    journal-content: none
    acl: upd
zone:
  - domain: {origin}
"""

UNBOUND_CONF = """\
server:
    interface: 127.0.0.1
    port: {port}
    username: ""
    chroot: ""
    directory: "{dir}"
    pidfile: ""
    use-syslog: no
    do-daemonize: no
    num-threads: 1
    do-not-query-localhost: no
    module-config: "iterator"
    cache-max-negative-ttl: 1
    infra-host-ttl: 1
remote-control:
    control-enable: no
stub-zone:
    name: "{origin}"
    stub-addr: 127.0.0.1@{upstream}
"""


def program(name: str) -> str:
    """The path of a server, or skip the test."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def free_port() -> int:
    """A port that nobody uses, for UDP and TCP on 127.0.0.1 and ::1."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp:
            tcp.bind(("127.0.0.1", 0))
            port = int(tcp.getsockname()[1])
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                try:
                    udp.bind(("127.0.0.1", port))
                except OSError:
                    continue
                return port


class RealServer:
    """A nameserver that runs as a process."""

    def __init__(self, command: list[str], port: int, origin: str) -> None:
        self.port = port
        self.origin = origin
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(  # noqa: ASYNC220
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        with trio.fail_after(20):
            while not await trio.to_thread.run_sync(self._answers):
                assert self._process.poll() is None, "the nameserver has ended"
                await trio.sleep(0.02)

    def _answers(self) -> bool:
        query = dns.message.make_query(self.origin, "SOA")
        try:
            reply = dns.query.udp(query, "127.0.0.1", timeout=0.2, port=self.port)
        except (OSError, dns.exception.DNSException):
            return False
        return reply.rcode() == dns.rcode.NOERROR

    async def update(self, *changes: tuple[str, ...], ttl: int = 0) -> None:
        """Replace (name, type, record…) or delete (name, type) by RFC 2136."""
        update = dns.update.UpdateMessage(self.origin)
        for name, rdtype, *records in changes:
            update.delete(name, rdtype)
            for record in records:
                update.add(name, ttl, rdtype, record)
        reply = await trio.to_thread.run_sync(
            lambda: dns.query.tcp(update, "127.0.0.1", timeout=5, port=self.port)
        )
        assert reply.rcode() == dns.rcode.NOERROR

    def hang(self) -> None:
        """Make it hang: it takes queries, and does not answer."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once; its ports are closed."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


def _prepare_knot(directory: Path, port: int, zone: str, origin: str) -> Path:
    for name in ("run", "db", "zones"):
        (directory / name).mkdir(parents=True)
    (directory / "zones" / f"{origin}.zone").write_text(zone)
    conf = directory / "knot.conf"
    conf.write_text(KNOT_CONF.format(dir=directory, port=port, origin=origin))
    return conf


def _prepare_unbound(directory: Path, port: int, upstream: RealServer) -> Path:
    directory.mkdir(parents=True)
    conf = directory / "unbound.conf"
    settings = {"origin": upstream.origin, "upstream": upstream.port}
    conf.write_text(UNBOUND_CONF.format(dir=directory, port=port, **settings))
    return conf


@asynccontextmanager
async def knot(
    directory: Path, zone: str = QORB_ZONE, *, origin: str = "test.com"
) -> AsyncIterator[RealServer]:
    """An authoritative server that takes updates."""
    command = program("knotd")
    port = free_port()
    conf = _prepare_knot(directory, port, zone, origin)
    server = RealServer([command, "-c", str(conf)], port, origin)
    try:
        await server.start()
        yield server
    finally:
        server.kill()


@asynccontextmanager
async def unbound(directory: Path, upstream: RealServer) -> AsyncIterator[RealServer]:
    """A cache in front of an authoritative server."""
    command = program("unbound")
    port = free_port()
    conf = _prepare_unbound(directory, port, upstream)
    server = RealServer([command, "-d", "-c", str(conf)], port, upstream.origin)
    try:
        await server.start()
        yield server
    finally:
        server.kill()
