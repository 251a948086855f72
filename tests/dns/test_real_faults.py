"""Field faults of the DNS resolver that need real sockets or threads."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import dns.flags
import dns.rcode
import pytest
import trio

from qorb_trio import Backend, DnsResolver, DnsResolverConfig, resolver_for
from qorb_trio._threads import Threads
from qorb_trio.resolvers._dns import socket_budget as _socket_budget
from qorb_trio.resolvers._dns.records import QueryError
from qorb_trio.resolvers._dns.servers import Server
from qorb_trio.resolvers._dns.socket_budget import LIMIT, SocketBudget
from qorb_trio.resolvers._dns.transport import NetworkTransport
from qorb_trio.testing import DnsServer

from .test_real import SERVICE, following, names
from .test_transport import HOST, ask, descriptors
from .wire_server import Asked, wire_server

pytestmark = pytest.mark.real


# ----------------------------------------------------------------------------- on the wire


async def test_over_tcp_the_first_mismatch_ends_the_exchange() -> None:
    """A TCP stream of wrong messages is not read on: the first one is a failure."""

    async def handler(asked: Asked) -> None:
        message = asked.answer("10.0.0.1")
        if not asked.tcp:
            message.flags |= dns.flags.TC
            await asked.send(message)
            return
        message.id ^= 1
        for _ in range(10_000):
            await asked.send(message)

    async with wire_server(handler) as server:
        start = trio.current_time()
        with pytest.raises(QueryError, match="not an answer over TCP: a wrong id"):
            await ask(server.server)
        assert trio.current_time() - start < 1


async def test_after_ten_wrong_ids_tcp_is_asked() -> None:
    """Datagrams with wrong ids are not waited out: after ten of them TCP is asked."""

    async def handler(asked: Asked) -> None:
        message = asked.answer("10.0.0.1")
        if asked.tcp:
            await asked.send(message)
            return
        for number in range(10):
            message.id = (asked.query.id + 1 + number) % 65536
            await asked.send(message)

    async with wire_server(handler) as server:
        start = trio.current_time()
        assert (await ask(server.server)).records == ("10.0.0.1",)
        assert trio.current_time() - start < 0.9
        assert [asked.tcp for asked in server.asked] == [False, True]


async def test_edns_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One FORMERR switches EDNS off for a while, and not for the life of the process."""
    monkeypatch.setattr("qorb_trio.resolvers._dns.transport._EDNS_PAUSE", 0.2)

    async def handler(asked: Asked) -> None:
        message = asked.answer("10.0.0.1")
        if len(server.asked) == 1:
            message = asked.answer()
            message.set_rcode(dns.rcode.FORMERR)
        await asked.send(message)

    async with wire_server(handler) as server:
        transport = NetworkTransport(edns_payload=1232)
        for _ in range(2):
            await ask(server.server, transport=transport)
        await trio.sleep(0.25)
        for _ in range(2):
            await ask(server.server, transport=transport)
        assert [asked.query.edns for asked in server.asked] == [0, -1, -1, 0, 0]
        assert not transport._plain_until


# -------------------------------------------------------------------------------- threads


@asynccontextmanager
async def no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """All threads of Trio's default limiter are taken, and the system gives no other."""
    limiter = trio.to_thread.current_default_thread_limiter()
    borrowers = [object() for _ in range(int(limiter.total_tokens))]
    for borrower in borrowers:
        limiter.acquire_on_behalf_of_nowait(borrower)

    def start(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        patch.setattr("trio._core._thread_cache.start_thread_soon", start)
        patch.setattr("trio._threads.start_thread_soon", start)
        yield
    for borrower in borrowers:
        limiter.release_on_behalf_of(borrower)


async def test_no_thread_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With no thread to be had a large service is found, resolv.conf and TCP included."""
    resolv_conf = tmp_path / "resolv.conf"
    monkeypatch.setattr("qorb_trio.resolvers._dns.system_files.RESOLV_CONF", str(resolv_conf))
    async with DnsServer(origin="test.") as server:
        resolv_conf.write_text(f"nameserver 127.0.0.1:{server.address[1]}\n")
        server.set("_echo._tcp", "SRV", [f"1 1 {5000 + i} h{i}" for i in range(500)])
        server.set("many", "A", [f"10.1.{i // 250}.{i % 250}" for i in range(500)])
        for i in range(500):
            server.set(f"h{i}", "A", "10.0.0.1")
        async with no_thread_to_be_had(monkeypatch):
            config = DnsResolverConfig(families=("A",))
            async with following(DnsResolver(SERVICE, config=config)) as updates:
                assert len(await updates.receive()) == 500
            async with following(resolver_for("many.test:80", config=config)) as updates:  # type: ignore[arg-type]
                assert len(await updates.receive()) == 500


async def test_a_nameserver_by_name_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "can't start new thread" for a nameserver's name is a failure of that exchange only."""
    async with no_thread_to_be_had(monkeypatch):
        with pytest.raises(QueryError, match="can't start new thread"):
            await ask(Server("localhost", 53))


async def test_names_of_nameservers_have_threads_of_their_own() -> None:
    """With Trio's default threads all taken, a nameserver may still be given by name."""
    async with DnsServer(origin="test.") as server:
        server.set("a", "A", "10.0.0.1")
        limiter = trio.to_thread.current_default_thread_limiter()
        borrowers = [object() for _ in range(int(limiter.total_tokens))]
        for borrower in borrowers:
            limiter.acquire_on_behalf_of_nowait(borrower)
        try:
            with trio.fail_after(10):
                answer = await ask(Server("localhost", server.address[1]))
        finally:
            for borrower in borrowers:
                limiter.release_on_behalf_of(borrower)
        assert answer.records == ("10.0.0.1",)


async def test_threads_are_few_and_cancellable() -> None:
    """No more threads than the limit run at once, and a cancelled call returns at once."""
    threads = Threads("test", 2)
    running, most = 0, 0
    lock, go = threading.Lock(), threading.Event()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        go.wait(10)
        with lock:
            running -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(threads.run, work)
        await trio.sleep(0.2)
        assert running == most == 2
        nursery.cancel_scope.cancel()
    go.set()


# -------------------------------------------------------------------------------- sockets


async def test_300_resolvers_of_silent_servers_leave_sockets_for_others() -> None:
    """300 resolvers whose servers are silent hold a bounded number of sockets; another works."""
    opened: list[int] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        async with DnsServer(origin="test.") as server, trio.open_nursery() as nursery:
            server.set("_echo._tcp", "SRV", "0 1 7001 a")
            server.set("a", "A", "127.0.0.1")
            before = len(descriptors())
            for i in range(300):
                resolver = DnsResolver(f"_s{i}._tcp.test", nameservers=[silent.getsockname()])
                outbox, _ = trio.open_memory_channel[Collection[Backend]](0)
                nursery.start_soon(resolver.run, outbox)
            await trio.sleep(0.5)
            start = trio.current_time()
            async with following(DnsResolver(SERVICE, nameservers=[server.address])) as updates:
                assert names(await updates.receive()) == {"a.test:7001@127.0.0.1"}
                opened.append(len(descriptors()) - before)
            assert trio.current_time() - start < 10
            nursery.cancel_scope.cancel()
    assert opened[0] <= LIMIT + 10


async def test_an_exchange_that_is_old_gives_way(autojump_clock: trio.testing.MockClock) -> None:
    """With all sockets in use, the oldest exchange ends as soon as it is a second old."""
    budget = SocketBudget(2)
    log: list[tuple[str, float]] = []

    async def exchange(name: str, seconds: float) -> None:
        try:
            await budget.run(partial(trio.sleep, seconds))
        except QueryError:
            log.append((f"{name} gave way", trio.current_time()))
        else:
            log.append((f"{name} done", trio.current_time()))

    async with trio.open_nursery() as nursery:
        for name, start, seconds in [("a", 0, 10), ("b", 0.1, 10), ("c", 0.5, 0.2), ("d", 1.05, 3)]:
            await trio.sleep_until(start)
            nursery.start_soon(exchange, name, seconds)
    assert [(name, round(when, 6)) for name, when in log] == [
        ("a gave way", 1.0),
        ("b gave way", 1.1),
        ("c done", 1.2),
        ("d done", 4.1),
    ]
    assert _socket_budget.socket_budget() is _socket_budget.socket_budget()


async def test_waiting_for_a_socket_is_not_under_the_timeout() -> None:
    """An exchange that waits for a socket has its whole timeout once it has one."""

    async def handler(asked: Asked) -> None:
        await asked.send(asked.answer("10.0.0.1"))

    budget = _socket_budget.socket_budget()
    async with wire_server(handler) as server, trio.open_nursery() as nursery:
        for _ in range(LIMIT):
            nursery.start_soon(budget.run, partial(trio.sleep, 0.4))
        await trio.testing.wait_all_tasks_blocked()
        answer = await ask(server.server, HOST, timeout=0.2)
        assert answer.records == ("10.0.0.1",)
