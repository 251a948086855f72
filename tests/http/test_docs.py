"""The programs of docs/http.md, against real servers that a DNS server names."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

import _services
from _services import nginx_servers
from qorb_trio.testing import DnsServer

from ..pages import programs_of

PAGE = Path(__file__).parents[2] / "docs" / "http.md"
BEGIN, TLS, PROBE = programs_of(PAGE.read_text())

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        _services.missing("nginx") is not None, reason=str(_services.missing("nginx"))
    ),
]

#: What the fragment with a probe leaves out.
BEFORE_PROBE = "from qorb_trio.http import HttpConnector\n"
AFTER_PROBE = """
import trio
from qorb_trio import Backend

async def main():
    connection = await HttpConnector(probe=probe).connect(Backend(("127.0.0.1", PORT)))
    print(connection.has_served)
    await connection.stream.aclose()

trio.run(main)
"""


@asynccontextmanager
async def service() -> AsyncIterator[tuple[DnsServer, int]]:
    """Run two servers that have the records of the page's service; yield the port of one."""
    async with nginx_servers(2) as servers, DnsServer(origin="example.com.") as dns:
        records = [f"0 1 {server.port} web{server.name}" for server in servers]
        dns.set("_api._tcp", "SRV", records)
        for server in servers:
            dns.set(f"web{server.name}", "A", "127.0.0.1")
        yield dns, servers[0].port


async def output_of(code: str) -> str:
    """Run a program to its end, which must be a good one, and return what it prints."""
    with trio.fail_after(60):
        done = await trio.run_process(
            [sys.executable, "-X", "dev", "-W", "error", "-c", code],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, b""), done.stdout
    return done.stdout.decode()


async def test_the_first_program() -> None:
    """A client finds its servers by SRV records, and the response tells which one has answered."""
    async with service() as (dns, _):
        name = '"_api._tcp.example.com."'
        assert name in BEGIN.code
        code = BEGIN.code.replace(name, f"{name}, nameservers=[{dns.address!r}]")
        assert (await output_of(code)).startswith("200 web")


async def test_the_connectors_for_tls() -> None:
    """The arguments of the page are accepted."""
    assert await output_of(TLS.code) == ""


async def test_the_probe() -> None:
    """The function of the page is asked on a new connection."""
    async with service() as (_, port):
        code = BEFORE_PROBE + PROBE.code + AFTER_PROBE.replace("PORT", str(port))
        assert await output_of(code) == "True\n"
