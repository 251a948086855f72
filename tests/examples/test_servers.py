"""The servers of the examples: echo and DNS."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from pathlib import Path

import dns.asyncquery
import dns.message
import dns.rdatatype
import pytest
import trio

from ._programs import EXAMPLES, command, run, running

pytestmark = pytest.mark.real


async def test_echo_server_echoes() -> None:
    """The server sends back the bytes of each client, in pieces of any size."""
    async with running("tcp_echo_server.py", "[::1]:0") as server:
        port = int((await server.wait_for("listening on [::1]:")).rpartition(":")[2])
        for _ in range(2):
            async with await trio.open_tcp_stream("::1", port) as stream:
                for message in (b"hello", b"x" * 100_000):
                    await stream.send_all(message)
                    reply = b""
                    while len(reply) < len(message):
                        reply += await stream.receive_some()
                    assert reply == message


async def test_echo_server_ends_with_its_input_if_asked_to() -> None:
    """With --until-end-of-input, the server cannot outlive the program that started it."""
    async with running("tcp_echo_server.py", "127.0.0.1:0", "--until-end-of-input") as server:
        await server.wait_for("listening on 127.0.0.1:")
        assert server.process.stdin is not None
        await server.process.stdin.aclose()
        assert await server.wait() == 0


async def test_echo_server_ends_quietly_at_an_interrupt() -> None:
    """Ctrl-C ends the server without a traceback, and is no failure."""
    process = await trio.lowlevel.open_process(
        command("tcp_echo_server.py", "127.0.0.1:0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    async with process.stdout, process.stderr:
        await process.stdout.receive_some()
        process.send_signal(signal.SIGINT)
        assert await process.stderr.receive_some() == b""
        assert await process.wait() == 0


@pytest.mark.parametrize("address", ["6001", "[::1]", ":6001", "::1:x"])
async def test_echo_server_says_what_is_wrong_with_an_address(address: str) -> None:
    """An address that is none is an error of usage, which names it."""
    done = await run("tcp_echo_server.py", address)
    assert done.returncode == 2
    assert f"not host:port: '{address}'" in done.stderr


async def ask(port: int, name: str, rdtype: str) -> list[str]:
    """The records that the DNS server at a port has of a name."""
    query = dns.message.make_query(name, rdtype)
    answer = await dns.asyncquery.udp(query, "127.0.0.1", port=port, timeout=5)
    return sorted(record.to_text() for rrset in answer.answer for record in rrset)


async def test_dns_server_leads_to_the_echo_servers() -> None:
    """The zone of the examples names the three servers that the README starts."""
    async with running("dns_server.py", "--host", "127.0.0.1", "--port", "0") as server:
        said = await server.wait_for("serving test.com. on 127.0.0.1, port ")
        port = int(said.partition("port ")[2].partition(",")[0])
        assert await ask(port, "_echo._tcp.test.com.", "SRV") == [
            "1 1 6001 echo001.test.com.",
            "1 1 6002 echo002.test.com.",
            "1 1 6003 echo003.test.com.",
        ]
        assert await ask(port, "echo002.test.com.", "AAAA") == ["::1"]


async def test_dns_server_follows_its_zone_file(tmp_path: Path) -> None:
    """An edit is served; what does not parse is reported, and the old zone stays."""
    file = tmp_path / "test.com.zone"
    shutil.copy(EXAMPLES / "dns" / "test.com.zone", file)
    arguments = (str(file), "--host", "127.0.0.1", "--port", "0")
    async with running("dns_server.py", *arguments) as server:
        said = await server.wait_for("serving")
        port = int(said.partition("port ")[2].partition(",")[0])
        good = file.read_text()
        file.write_text(good.replace("6002", "7002"))
        await server.wait_for("reloaded")
        assert "1 1 7002 echo002.test.com." in await ask(port, "_echo._tcp.test.com.", "SRV")

        file.write_text(good + "echo004 AAAA not-an-address\n")
        await server.wait_for("not reloaded: ")
        assert "1 1 7002 echo002.test.com." in await ask(port, "_echo._tcp.test.com.", "SRV")

        file.unlink()
        file.write_text(good)
        await server.wait_for("reloaded")
        assert "1 1 6002 echo002.test.com." in await ask(port, "_echo._tcp.test.com.", "SRV")


async def test_dns_server_reloads_at_sighup() -> None:
    """SIGHUP loads the zone again, as it does with most name servers."""
    async with running("dns_server.py", "--host", "127.0.0.1", "--port", "0") as server:
        await server.wait_for("serving")
        server.process.send_signal(signal.SIGHUP)
        await server.wait_for("reloaded")


async def test_an_address_that_is_taken() -> None:
    """A server that cannot listen says where and why, in one line."""
    async with running("tcp_echo_server.py", "127.0.0.1:0") as server:
        address = (await server.wait_for("listening on ")).split()[-1]
        port = address.rpartition(":")[2]
        for command_line in (
            ("tcp_echo_server.py", address),
            ("dns_server.py", "--host", "127.0.0.1", "--port", port),
            ("dns_server.py", "no-such.zone"),
        ):
            done = await run(*command_line)
            assert (done.returncode, done.stdout) == (1, "")
            assert re.fullmatch(r"cannot (listen on|serve) .*\[Errno \d+\].*\n", done.stderr)
