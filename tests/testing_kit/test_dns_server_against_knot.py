"""The embedded DNS server answers as Knot DNS does, where that is installed."""

from __future__ import annotations

import itertools
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dns.exception
import dns.flags
import dns.message
import dns.query
import pytest
import trio

from qorb_trio.testing import DnsServer

from .test_dns_server import ZONE

if TYPE_CHECKING:
    from dns.message import Message

KNOTD = shutil.which("knotd") or shutil.which("knotd", path="/usr/sbin")

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(KNOTD is None, reason="Knot DNS is not installed"),
]

#: The zone of the other tests, and a set of records that is too large for UDP.
TEXT = ZONE + "".join(f"_many._tcp SRV 0 1 {7000 + i} a\n" for i in range(40))

# fmt: off
NAMES = [
    "@", "ns", "_echo._tcp", "_tcp", "a", "A.LAB.test.", "b", "alias", "chain", "dangling",
    "outside", "loop", "x.deep.ent", "deep.ent", "ent", "y.ent", "wild", "q.wild", "q.r.wild",
    "*.wild", "sub", "h.sub", "ns.sub", "mail", "nowhere", "x.a", "_many._tcp", "example.",
    "other.test.",
]
# fmt: on
TYPES = ["A", "AAAA", "SRV", "CNAME", "SOA", "NS", "MX", "TXT"]

CONFIG = """
server:
    rundir: "{0}"
    listen: [127.0.0.1@{1}]
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
control:
    listen: "{0}/knot.sock"
database:
    storage: "{0}"
template:
  - id: default
    storage: "{0}"
    zonefile-sync: -1
    zonefile-load: whole
    journal-content: none
zone:
  - domain: lab.test
    file: lab.zone
"""


def ask(port: int, name: str, rdtype: str, transport: str, *, timeout: float = 5) -> Message:
    """One exchange with a server on loopback."""
    name = name if name.endswith(".") else f"{name}.lab.test.".removeprefix("@.")
    query = dns.message.make_query(name, rdtype, payload=1232)
    client: Any = getattr(dns.query, transport)
    response: Message = client(query, "127.0.0.1", port=port, timeout=timeout)
    return response


def essence(response: Message) -> dict[str, object]:
    """All that matters of a response, whatever the order of the records."""
    return {
        "rcode": response.rcode().name,
        "flags": dns.flags.to_text(response.flags),
        "edns": response.edns,
    } | {
        section: sorted(
            (rrset.name.to_text().lower(), rrset.ttl, rrset.rdtype.name, str(rdata))
            for rrset in getattr(response, section)
            for rdata in rrset
        )
        for section in ("answer", "authority", "additional")
    }


@pytest.fixture(scope="module")
def knot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a Knot server that has the zone."""
    folder = tmp_path_factory.mktemp("knot")
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    (folder / "lab.zone").write_text(TEXT)
    config = folder / "knot.conf"
    config.write_text(CONFIG.format(folder, port))
    with run_knot(config, folder / "log") as process:
        try:
            until_it_answers(port)
            yield port
        finally:
            process.terminate()


def run_knot(config: Path, log: Path) -> subprocess.Popen[bytes]:
    """The server as a process."""
    assert KNOTD is not None
    with log.open("wb") as output:
        return subprocess.Popen([KNOTD, "-c", config], stdout=output, stderr=output)


def until_it_answers(port: int) -> None:
    """Ask until the zone is loaded."""
    for _ in range(100):
        try:
            if ask(port, "@", "SOA", "udp", timeout=0.1).answer:
                return
        except (OSError, dns.exception.Timeout):
            pass
    raise AssertionError("knotd does not answer")


async def test_every_answer_is_knots(knot: int) -> None:
    """For each name and type, over UDP and TCP, the answers of both servers are the same."""
    async with DnsServer(TEXT) as server:
        port = server.address[1]

        def compare() -> None:
            for name, rdtype, transport in itertools.product(NAMES, TYPES, ("udp", "tcp")):
                ours, theirs = (ask(each, name, rdtype, transport) for each in (port, knot))
                assert essence(ours) == essence(theirs), (name, rdtype, transport)

        await trio.to_thread.run_sync(compare)
