"""An HTTP client that finds its servers by DNS, and does not notice that one is restarted.

    python examples/http_client.py

Three nginx serve a service, whose SRV records lead to them. httpx sends its requests over a
pool. One server quits and comes back while requests are on their way. At the end there is an
account of every request: none has failed.

`make_client` is all that a program needs. The rest is a stage for it: servers, a DNS server in
this process, and the workers.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import httpx  # noqa: ASYNC127 - httpx2 works in its place
import trio

import qorb_trio
from qorb_trio.http import HttpConnector, PoolTransport
from qorb_trio.testing import DnsServer

SERVICE = "_web._tcp.test.com."
WORKERS = 8
SECONDS = 3.0


# --- The client: this is what one writes. ------------------------------------------------


@asynccontextmanager
async def make_client(dns: tuple[str, int]) -> AsyncIterator[httpx.AsyncClient]:
    """Open a client whose requests for ``http://web.test.com`` go over a pool."""
    resolver = qorb_trio.DnsResolver(SERVICE, nameservers=[dns])
    # Idle connections are probed, so that a server that hangs is noticed between requests.
    connector = HttpConnector(probe="/health")
    policy = qorb_trio.Policy(spares_wanted=3, max_slots=12)
    async with (
        trio.open_nursery() as nursery,
        qorb_trio.open_pool(nursery, resolver, connector, policy=policy, name="web") as pool,
        httpx.AsyncClient(mounts={"http://web.test.com": PoolTransport(pool)}) as client,
    ):
        yield client


# --- The stage. --------------------------------------------------------------------------

NGINX = """\
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/log; {user}
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
    uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
    server {{ listen 127.0.0.1:{port}; location / {{ return 200 "{name} $uri"; }} }}
}}
"""


@attrs.define
class Nginx:
    """An nginx whose answers name it and the path that was asked for."""

    name: str
    folder: Path
    port: int
    _process: trio.Process | None = None

    async def start(self) -> None:
        """Start it, and return when it listens."""
        self.folder.mkdir(exist_ok=True)
        config = self.folder / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        config.write_text(
            NGINX.format(folder=self.folder, port=self.port, name=self.name, user=user)
        )
        self._process = await trio.lowlevel.open_process(
            ["nginx", "-c", str(config), "-e", str(self.folder / "log")], stderr=subprocess.DEVNULL
        )
        with trio.fail_after(10):
            while not await self._listens():  # noqa: ASYNC110 - it does not say so by itself
                await trio.sleep(0.02)

    async def _listens(self) -> bool:
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        except OSError:
            return False
        await stream.aclose()
        return True

    async def quit(self) -> None:
        """Have it finish what it is doing, and end."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            with trio.move_on_after(10, shield=True):
                await self._process.wait()


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@asynccontextmanager
async def nginx_servers(folder: Path) -> AsyncIterator[list[Nginx]]:
    """Start three servers, and have them quit at the end."""
    servers = [Nginx(f"web{n}", folder / f"web{n}", free_port()) for n in (1, 2, 3)]
    try:
        for server in servers:
            await server.start()
        yield servers
    finally:
        for server in servers:
            await server.quit()  # noqa: ASYNC102 - it is shielded, and has a deadline


@attrs.define
class Account:
    """The fate of each request."""

    answered: Counter[str] = attrs.field(factory=Counter)
    wrong: int = 0
    failed: Counter[str] = attrs.field(factory=Counter)

    def print(self) -> None:
        """Print it."""
        total = self.answered.total() + self.wrong + self.failed.total()
        print(f"{total} requests")
        for name, count in sorted(self.answered.items()):
            print(f"  {count} answered by {name}")
        print(f"  {self.wrong} answered wrongly")
        print(f"  {self.failed.total()} failed", *self.failed.items())


async def worker(number: int, client: httpx.AsyncClient, account: Account) -> None:
    """Send requests, each with a path of its own, until cancelled."""
    turn = 0
    while True:
        turn += 1
        path = f"/{number}/{turn}"
        try:
            response = await client.get(f"http://web.test.com{path}")
            name, _, echoed = response.text.partition(" ")
        except httpx.HTTPError as exc:
            account.failed[repr(exc)] += 1
        else:
            if echoed == path:
                account.answered[name] += 1
            else:
                account.wrong += 1
        await trio.sleep(0.01)


async def restart(server: Nginx) -> None:
    """Restart a server in the middle of everything."""
    await trio.sleep(SECONDS / 3)
    print(f"{server.name} quits")
    await server.quit()
    await trio.sleep(SECONDS / 3)
    await server.start()
    print(f"{server.name} is back")
    await trio.sleep(SECONDS / 3)


async def main() -> int:
    """Run the servers and the client; return the exit status."""
    if shutil.which("nginx") is None:
        print("this example needs nginx: apt install nginx-light", file=sys.stderr)
        return 2
    account = Account()
    with tempfile.TemporaryDirectory() as folder:
        async with nginx_servers(Path(folder)) as servers, DnsServer(origin="test.com.") as dns:
            for server in servers:
                dns.set(server.name, "A", "127.0.0.1", ttl=1)
            records = [f"1 1 {server.port} {server.name}" for server in servers]
            dns.set("_web._tcp", "SRV", records, ttl=1)
            async with make_client(dns.address) as client, trio.open_nursery() as nursery:
                for number in range(WORKERS):
                    nursery.start_soon(worker, number, client, account)
                await restart(servers[1])
                nursery.cancel_scope.cancel()
    account.print()
    return 1 if account.failed or account.wrong else 0


if __name__ == "__main__":
    sys.exit(trio.run(main))
