"""field-faults E: dialling TCP: names, several addresses, sockets that meet themselves."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from qorb_trio import Backend, TcpConnector
from qorb_trio.connectors import _dial, _lookup

from .kit import no_socket_left, peers, tcp_listener

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.real

V4, V6 = socket.AF_INET, socket.AF_INET6


def target(host: str, port: int) -> _lookup.Target:
    """An address as a look-up returns it."""
    return (V6 if ":" in host else V4, socket.SOCK_STREAM, 6, (host, port))


def names(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let every name have these addresses."""

    def getaddrinfo(host: bytes, port: object, **options: int) -> list[Any]:
        assert port is None
        return [
            (V6 if ":" in one else V4, 1, 6, "", (one, 0, 0, 0) if ":" in one else (one, 0))
            for one in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


# ----------------------------------------------------------------- names in threads


@contextlib.contextmanager
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """A system resolver that knows one good name, and hangs for all others until the end."""
    asked: list[bytes] = []
    over = threading.Event()

    def getaddrinfo(host: bytes, port: object, **options: int) -> list[Any]:
        asked.append(host)
        if host != b"good.test":
            over.wait(20)
        return [(V4, 1, 6, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    try:
        yield asked
    finally:
        over.set()


async def test_hanging_lookups_take_no_thread_of_the_default_limiter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """16 names that hang leave Trio's default limiter alone, and use one thread each."""
    default = trio.to_thread.current_default_thread_limiter()
    connector = TcpConnector()
    with hanging(monkeypatch) as asked:
        for _ in range(3):  # the threads of dials that timed out are still there
            async with trio.open_nursery() as nursery:
                for number in range(_lookup.MAX_THREADS + 4):
                    for port in (1, 2):
                        backend = Backend((f"hangs{number}.test", port))
                        nursery.start_soon(connector.connect, backend)
                await trio.sleep(0.05)
                assert default.borrowed_tokens == 0
                assert await trio.to_thread.run_sync(lambda: 7) == 7
                nursery.cancel_scope.cancel()
        assert len(asked) == len(set(asked)) == _lookup.MAX_THREADS
        assert _lookup._lookups().threads.borrowed_tokens == _lookup.MAX_THREADS
    with trio.fail_after(5):
        while _lookup._lookups().names:  # noqa: ASYNC110 - threads end, and nobody tells
            await trio.sleep(0.001)
    assert _lookup._lookups().threads.borrowed_tokens == 0


async def test_a_name_that_hangs_delays_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is looked up at once while fewer names hang than there are threads."""
    listener, backend = await tcp_listener()
    with hanging(monkeypatch):
        async with listener, trio.open_nursery() as nursery:
            for number in range(_lookup.MAX_THREADS - 1):
                nursery.start_soon(TcpConnector().connect, Backend((f"hangs{number}.test", 1)))
            await wait_all_tasks_blocked()
            with trio.fail_after(2):
                good = Backend(("good.test", backend.port or 0))
                await (await TcpConnector().connect(good)).aclose()
            nursery.cancel_scope.cancel()


async def test_one_answer_serves_all_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dials to one name that begin together make one look-up; a later dial makes another."""
    calls: list[bytes] = []

    def getaddrinfo(host: bytes, port: object, **options: int) -> list[Any]:
        calls.append(host)
        return [(V6, 1, 6, "", ("::1", 0, 0, 3))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    found: list[list[_lookup.Target]] = []

    async def look(port: int) -> None:
        found.append(await _lookup.lookup("name.test", port))

    async with trio.open_nursery() as nursery:
        for port in range(1, 5):
            nursery.start_soon(look, port)
    assert calls == [b"name.test"]
    ports = sorted(address[1] for [(*_, address)] in found)
    assert ports == [1, 2, 3, 4]
    assert found[0][0][3][2:] == (0, 3)
    await look(5)
    assert len(calls) == 2
    assert not _lookup._lookups().names


async def test_one_failure_serves_all_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each dial gets an error of its own, from one look-up."""
    calls: list[bytes] = []

    def getaddrinfo(host: bytes, port: object, **options: int) -> list[Any]:
        calls.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    caught: list[BaseException] = []

    async def look() -> None:
        try:
            await _lookup.lookup("name.test", 1)
        except socket.gaierror as exc:
            caught.append(exc)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(look)
    assert calls == [b"name.test"]
    assert len({id(exc) for exc in caught}) == 3
    assert {exc.args for exc in caught} == {(socket.EAI_NONAME, "unknown")}


async def test_names_beyond_ascii_are_idna_2008(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is encoded as Trio does it, so that it leads to the host that was meant."""
    calls: list[bytes] = []

    def getaddrinfo(host: bytes, port: object, **options: int) -> list[Any]:
        calls.append(host)
        return [(V4, 1, 6, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    await _lookup.lookup("stra\xdfe.test", 1)
    assert calls == [b"xn--strae-oqa.test"]


async def test_a_custom_hostname_resolver_is_asked() -> None:
    """The resolver that a test sets for Trio serves the connectors too, and stays set."""

    class Custom(trio.abc.HostnameResolver):
        async def getaddrinfo(self, host: Any, port: Any, *rest: Any) -> Any:
            assert host == b"name.test"
            return [(V4, socket.SOCK_STREAM, 6, "", ("127.0.0.9", port))]

        async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
            raise NotImplementedError

    custom = Custom()
    trio.socket.set_custom_hostname_resolver(custom)
    assert await _lookup.lookup("name.test", 7) == [target("127.0.0.9", 7)]
    assert trio.socket.set_custom_hostname_resolver(None) is custom


# ------------------------------------------------------------------ happy eyeballs


def test_families_take_turns() -> None:
    """The first family stays first, and the others follow in turn (RFC 8305, section 4)."""
    given = [target(host, 1) for host in ("::1", "::2", "::3", "1.1.1.1", "1.1.1.2")]
    hosts = [address[0] for *_, address in _dial.interleave(given)]
    assert hosts == ["::1", "1.1.1.1", "::2", "1.1.1.2", "::3"]
    assert _dial.interleave(given[:1]) == given[:1]


def connects(
    monkeypatch: pytest.MonkeyPatch, behaviour: Callable[[str], float | OSError | trio.Event]
) -> list[tuple[str, float]]:
    """Let an attempt take some seconds, wait or fail, by address; return all with their times."""
    attempts: list[tuple[str, float]] = []

    async def connect(one: _lookup.Target) -> trio.socket.SocketType:
        attempts.append((one[3][0], trio.current_time()))
        what = behaviour(one[3][0])
        if isinstance(what, OSError):
            raise what
        if isinstance(what, trio.Event):
            await what.wait()
        else:
            await trio.sleep(what)
        return trio.socket.socket()

    monkeypatch.setattr(_dial, "_connect", connect)
    return attempts


A = Backend(("a.test", 80))


async def test_the_next_address_begins_after_a_quarter_of_a_second(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    """An address that does not answer is raced by the next one, and cancelled when that wins."""
    attempts = connects(monkeypatch, lambda host: 100.0 if host == "::1" else 0.1)
    began = trio.current_time()
    with no_socket_left():
        sock = await _dial._race(A, [target("::1", 80), target("1.1.1.1", 80)])
        sock.close()
    assert attempts == [("::1", began), ("1.1.1.1", began + 0.25)]
    assert trio.current_time() == began + 0.35


async def test_the_next_address_begins_at_once_when_one_fails(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    """An address that refuses costs no time."""
    connects(monkeypatch, lambda host: OSError("no") if host == "::1" else 0.1)
    began = trio.current_time()
    (await _dial._race(A, [target("::1", 80), target("1.1.1.1", 80)])).close()
    assert trio.current_time() == began + 0.1


async def test_two_winners_in_one_tick_leave_one_socket(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    """Of two attempts that succeed together, the second is closed."""
    answer = trio.Event()
    connects(monkeypatch, lambda host: answer)
    with no_socket_left():
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def race() -> None:
                (await _dial._race(A, [target("::1", 80), target("1.1.1.1", 80)])).close()

            await trio.sleep(1)
            answer.set()


async def test_a_race_that_is_cancelled_as_it_is_won_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    """The winner of a race that is cancelled in the same instant is closed."""
    answer = trio.Event()
    connects(monkeypatch, lambda host: answer)
    with no_socket_left():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_dial._race, A, [target("::1", 80), target("1.1.1.1", 80)])
            await trio.sleep(0.1)
            answer.set()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("same", [True, False])
async def test_all_addresses_fail(monkeypatch: pytest.MonkeyPatch, same: bool) -> None:
    """The error names each reason once, and is of the kind that all have in common."""
    refused = OSError(errno.ECONNREFUSED, "refused")
    other = refused if same else OSError(errno.EHOSTUNREACH, "no route")
    connects(monkeypatch, lambda host: refused if host == "::1" else other)
    targets = [target("::1", 80), target("1.1.1.1", 80), target("1.1.1.2", 80)]
    with pytest.raises(OSError, match=r"no address of a\.test \(port 80\) accepts") as caught:
        await _dial._race(A, targets)
    assert isinstance(caught.value, ConnectionRefusedError) == same
    assert str(caught.value).count("refused") == 1
    assert "::1, 1.1.1.1, 1.1.1.2" in str(caught.value)
    assert ("no route" in str(caught.value)) != same


async def test_one_address_of_a_name_gives_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one address there is one attempt, and its own error is what people want to read."""
    listener, backend = await tcp_listener()
    await listener.aclose()
    names(monkeypatch, "127.0.0.1")
    with pytest.raises(ConnectionRefusedError) as caught:
        await TcpConnector().connect(Backend(("a.test", backend.port or 0)))
    assert caught.value.errno == errno.ECONNREFUSED


async def test_the_second_address_is_used_when_the_first_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name with a dead address and a good one is connected to."""
    listener, backend = await tcp_listener()
    names(monkeypatch, "::1", "127.0.0.1")
    async with peers(listener):
        conn = await TcpConnector().connect(Backend(("a.test", backend.port or 0)))
        assert conn.socket.family == V4
        await conn.aclose()


# ------------------------------------------------------------------- self-connected


async def test_a_socket_that_connected_to_itself_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Dialling a closed ephemeral port from that very port fails, and closes the socket."""
    listener, backend = await tcp_listener()
    await listener.aclose()
    new = trio.socket.socket

    def bound(*kind: Any) -> trio.socket.SocketType:
        sock = new(*kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stdlib = socket.socket(fileno=sock.fileno())
        stdlib.bind(backend.address)  # the same source port as the destination
        stdlib.detach()
        return sock

    monkeypatch.setattr(trio.socket, "socket", bound)
    with no_socket_left(), pytest.raises(ConnectionRefusedError, match="connected to itself"):
        await TcpConnector().connect(backend)
