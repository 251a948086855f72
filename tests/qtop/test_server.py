"""The server: pages, WebSockets, and clients of every kind."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from wsproto import ConnectionType, WSConnection, events

from qorb_trio import qtop
from qorb_trio.qtop import _report
from qorb_trio.qtop._client import Target, connect
from qorb_trio.qtop._server import MAX_CLIENTS, MAX_STRANGERS, PATIENCE

from .kit import HOST, a_pool, a_program, is_recorded, message, read_all

UPGRADE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)


def status(answer: bytes) -> int:
    """The status of an HTTP answer."""
    return int(answer.split(b" ", 2)[1])


# --- HTTP -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/qtop", "/qtop/", "/qtop/stats", "/qtop/stats?x=1"])
async def test_the_page(path: str) -> None:
    """Over HTTP there is one page, which may load nothing from anywhere."""
    async with a_pool() as pool, a_program(pool) as program:
        head, _, body = (await program.ask(f"GET {path}")).partition(b"\r\n\r\n")
        head_only = await program.ask(f"HEAD {path}")
    assert status(head) == 200
    assert b"default-src 'none'" in head
    assert b"no-store" in head
    assert b"<title>qtop</title>" in body
    assert head_only == head + b"\r\n\r\n"
    # The icon is in the page, and its namespaces are names.
    links = set(re.findall(rb"\b(?:https?|wss?):(?!//\$)//[^\s'\"`]*", body))
    assert links == {b"http://www.w3.org/2000/svg"}
    assert b"innerHTML" not in body


@pytest.mark.parametrize(
    ("head", "headers", "expected"),
    [
        ("GET /other", (), 404),
        ("POST /", (), 405),
        ("HEAD /other", (), 404),
        ("HEAD /qtop/stats", UPGRADE, 405),
        ("GET /", ("Host: evil.test",), 403),
        ("GET /", ("Origin: http://evil.test",), 403),
        ("GET http://[", (), 400),
        ("GET //[x", UPGRADE, 400),
        ("GET /other", UPGRADE, 404),
        ("GET /qtop/stats", ("Upgrade: websocket",), 400),
        ("GET /qtop/stats", ("Host: evil.test", *UPGRADE), 403),
        ("GET /qtop/stats", ("Origin: http://evil.test", *UPGRADE), 403),
        ("GET /qtop/stats?update_secs=0", UPGRADE, 400),
        ("GET /qtop/stats?update_secs=nan", UPGRADE, 400),
        ("GET /qtop/stats?update_secs=soon", UPGRADE, 400),
    ],
)
async def test_refused_requests(head: str, headers: tuple[str, ...], expected: int) -> None:
    """A request that cannot be served, or not for this caller, is refused with the reason."""
    async with a_pool() as pool, a_program(pool) as program:
        answer = await program.ask(head, *headers)
        assert status(answer) == expected
        assert "statistics" not in str(answer)
        assert not await is_recorded(pool)


async def test_no_token_no_statistics() -> None:
    """With a token the page is for everybody, since it tells nothing; the statistics are not."""
    async with a_pool() as pool, a_program(pool, token="a-secret-of-the-house") as program:
        assert status(await program.ask("GET /")) == 200
        assert status(await program.ask("GET /qtop/stats", *UPGRADE)) == 401
        wrong = "Authorization: Bearer guess"
        assert status(await program.ask("GET /qtop/stats", *UPGRADE, wrong)) == 401
        with pytest.raises(ConnectionError, match="status 401: a bearer token is needed"):
            async with program.watched():
                pass
        async with program.watched(token="a-secret-of-the-house") as socket:
            assert "sets" in await message(socket)


@pytest.mark.parametrize(
    "headers",
    [
        [f"X-{number}: y" for number in range(150)],
        [f"X: {'y' * 20_000}"],
        ["X: " + "y" * 16_360],
    ],
)
async def test_h_a_head_that_is_too_long(headers: list[str]) -> None:
    """A head with too many lines, or too many bytes, is refused before it is parsed."""
    async with a_pool() as pool, a_program(pool) as program:
        answer = await program.ask("GET /", *headers)
        assert status(answer) == 431
        assert status(await program.ask("GET /", *(f"X-{n}: y" for n in range(90)))) == 200


async def test_h_a_query_with_many_fields() -> None:
    """An address with hundreds of fields is refused, and not taken apart."""
    async with a_pool() as pool, a_program(pool) as program:
        query = "&".join(f"a{number}=1" for number in range(500))
        assert status(await program.ask(f"GET /qtop/stats?{query}&update_secs=1", *UPGRADE)) == 400


async def test_h_many_frames_end_a_client(autojump_clock: trio.testing.MockClock) -> None:
    """A client that sends more frames than a person could is dropped, and no other."""
    async with a_pool() as pool, a_program(pool) as program, program.watched() as other:
        for frame in (events.TextMessage(data=""), events.Ping(), events.Pong()):
            stream = program.connect()
            protocol, data = shake()
            await stream.send_all(data)
            await until(stream, protocol, events.AcceptConnection)
            await stream.send_all(protocol.send(frame) * 10_920)
            assert await read_all(stream)  # it ends
            assert await message(other)


@pytest.mark.parametrize("said", [b"", b"GET / HT", b"\x16\x03\x01\x02\x00\x01\r\n\r\n"])
async def test_no_request(said: bytes) -> None:
    """A client that sends nothing, or no HTTP, gets no answer; others are served."""
    async with a_pool() as pool, a_program(pool) as program:
        stream = program.connect()
        await stream.send_all(said)
        await stream.send_eof()  # type: ignore[attr-defined]
        assert await read_all(stream) == b""
        assert status(await program.ask("GET /")) == 200


async def test_a_request_that_never_ends(autojump_clock: trio.testing.MockClock) -> None:
    """A client has ten seconds for its request."""
    async with a_pool() as pool, a_program(pool) as program:
        stream = program.connect()
        await stream.send_all(b"GET / HTTP/1.1\r\n")
        begin = trio.current_time()
        assert await read_all(stream) == b""
        assert trio.current_time() == begin + PATIENCE


async def test_too_many_clients() -> None:
    """There is a limit to how many may watch, and room again when one has left."""
    async with a_pool() as pool, a_program(pool) as program, AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(program.watched()) for _ in range(MAX_CLIENTS)]
        assert status(await program.ask("GET /qtop/stats", *UPGRADE)) == 503
        assert status(await program.ask("GET /")) == 200
        await sockets.pop().close()
        await trio.testing.wait_all_tasks_blocked()
        async with program.watched() as socket:
            assert await message(socket)


async def test_those_who_never_ask(autojump_clock: trio.testing.MockClock) -> None:
    """Clients that never send a request are disconnected, and keep out no other client."""
    async with a_pool() as pool, a_program(pool) as program, program.watched() as socket:
        streams = []
        for _ in range(3 * MAX_STRANGERS):
            streams.append(program.connect())
            await streams[-1].send_all(b"GET / HTTP/1.1\r\nX: ")
            await trio.testing.wait_all_tasks_blocked()
        assert len(program.server._strangers) == MAX_STRANGERS
        begin = trio.current_time()
        for stream in streams[: 2 * MAX_STRANGERS]:
            assert await read_all(stream) == b""
        assert status(await program.ask("GET /")) == 200
        async with program.watched() as other:
            assert await message(other)
        assert trio.current_time() == begin
        for stream in streams:
            assert await read_all(stream) == b""
        assert trio.current_time() <= begin + PATIENCE
        assert not program.server._strangers
        assert await message(socket)


# --- WebSocket --------------------------------------------------------------------------


async def test_messages_come_at_the_interval(autojump_clock: trio.testing.MockClock) -> None:
    """The first comes at once, the others at the interval that was asked for."""
    async with a_pool() as pool, a_program(pool) as program:
        for path, interval in (("/qtop/stats", 1.0), ("/qtop/stats?update_secs=5", 5.0)):
            async with program.watched(path=path) as socket:
                begin = trio.current_time()
                for number in range(3):
                    assert (await message(socket))["interval"] == (interval if number else 0)
                    assert trio.current_time() == begin + number * interval


async def test_the_subprotocol_of_the_page() -> None:
    """A browser that offers `qtop` is told that it is spoken; who offers nothing is not."""
    async with a_pool() as pool, a_program(pool) as program:
        for headers, told in (
            (("Sec-WebSocket-Protocol: qtop, bearer.eA",), True),
            (("Sec-WebSocket-Protocol: other",), False),
            ((), False),
        ):
            stream = program.connect()
            head = "".join(f"{line}\r\n" for line in (f"Host: {HOST}", *UPGRADE, *headers))
            await stream.send_all(f"GET /qtop/stats HTTP/1.1\r\n{head}\r\n".encode())
            answer = bytes(await stream.receive_some())
            assert status(answer) == 101
            assert (b"sec-websocket-protocol: qtop\r\n" in answer.lower()) is told
            await stream.aclose()


def shake(*early: events.Event) -> tuple[WSConnection, bytes]:
    """A client that does not wait for its welcome, and what it sends."""
    protocol = WSConnection(ConnectionType.CLIENT)
    data = protocol.send(events.Request(host=HOST, target="/qtop/stats"))
    twin = WSConnection(ConnectionType.CLIENT)
    twin.send(events.Request(host=HOST, target="/qtop/stats"))
    return protocol, data


async def until(
    stream: trio.abc.ReceiveStream, protocol: WSConnection, kind: type[events.Event]
) -> Any:
    """The next event of a kind that comes."""
    while True:
        for event in protocol.events():
            if isinstance(event, kind):
                return event
        protocol.receive_data(bytes(await stream.receive_some()))


async def test_ping_and_close() -> None:
    """A ping is answered, and so is a goodbye, after which the connection is closed."""
    async with a_pool() as pool, a_program(pool) as program:
        stream = program.connect()
        protocol, data = shake()
        await stream.send_all(data)
        await until(stream, protocol, events.AcceptConnection)
        await stream.send_all(protocol.send(events.Ping(payload=b"there?")))
        assert (await until(stream, protocol, events.Pong)).payload == b"there?"
        await stream.send_all(protocol.send(events.CloseConnection(code=1000)))
        assert (await until(stream, protocol, events.CloseConnection)).code == 1000
        assert await read_all(stream) == b""
        await trio.testing.wait_all_tasks_blocked()
        assert not await is_recorded(pool)


async def test_what_is_said_before_the_welcome_is_heard() -> None:
    """Frames that come in one piece with the request are not lost."""
    async with a_pool() as pool, a_program(pool) as program:
        stream = program.connect()
        protocol, data = shake()
        masked_ping = b"\x89\x80\x00\x00\x00\x00"
        await stream.send_all(data + masked_ping)
        assert await until(stream, protocol, events.Pong)


@pytest.mark.parametrize(
    "said",
    [
        events.TextMessage(data="x" * 5000),
        events.BytesMessage(data=b"x" * 5000),
        events.TextMessage(data="a", message_finished=False),
        b"\x81\x01a",  # not masked
        b"\xff\x80\x00\x00\x00\x00",  # of no kind there is
    ],
    ids=["long text", "long bytes", "half", "unmasked", "reserved"],
)
async def test_bad_clients(said: events.Event | bytes) -> None:
    """A client that sends too much or nonsense, or that leaves in between, is dropped."""
    async with a_pool() as pool, a_program(pool) as program:
        stream = program.connect()
        protocol, data = shake()
        await stream.send_all(data)
        await until(stream, protocol, events.AcceptConnection)
        await stream.send_all(said if isinstance(said, bytes) else protocol.send(said))
        await stream.send_eof()  # type: ignore[attr-defined]
        await read_all(stream)
        await trio.testing.wait_all_tasks_blocked()
        assert not await is_recorded(pool)


async def test_a_client_that_never_reads(autojump_clock: trio.testing.MockClock) -> None:
    """A client that never reads is dropped at its deadline, and slows no other client."""
    async with a_pool() as pool, a_program(pool) as program:
        stream = program.connect(trio.testing.lockstep_stream_pair)
        _, data = shake()
        await stream.send_all(data)
        await stream.receive_some(1000)  # the welcome, and no more
        begin = trio.current_time()
        async with program.watched() as socket:
            for number in range(30):
                await message(socket)
                assert trio.current_time() - begin == number
                async with pool.claim(timeout=0):
                    pass
                if number != PATIENCE:  # in that instant it is dropped
                    assert len(program.server._watchers) == 1 + (number < PATIENCE)
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")


async def test_a_client_that_pings_and_never_reads(autojump_clock: trio.testing.MockClock) -> None:
    """A client that asks for answers but does not read them is dropped, too."""
    async with a_pool() as pool, a_program(pool) as program:
        stream = program.connect(trio.testing.lockstep_stream_pair)
        protocol, data = shake()
        await stream.send_all(data)
        protocol.receive_data(bytes(await stream.receive_some(1000)))
        begin = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await stream.send_all(protocol.send(events.Ping()))
        assert trio.current_time() - begin == PATIENCE


async def test_a_fault_of_ours_ends_one_client_and_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in qtop is logged with its traceback; pool, program and other clients go on."""

    async def broken(self: object) -> str:
        raise ZeroDivisionError

    async with a_pool() as pool, a_program(pool) as program:
        with monkeypatch.context() as patch:
            patch.setattr(_report.Report, "next", broken)
            async with program.watched() as socket:
                assert await socket.receive() is None
        (record,) = caplog.records
        assert record.name == "qorb_trio.qtop"
        assert record.levelno == logging.ERROR
        async with program.watched() as socket:
            assert await message(socket)


@pytest.mark.real
async def test_d_logging_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """A filter of the program's that raises ends neither the server nor another client."""
    caplog.set_level(logging.DEBUG, "qorb_trio.qtop")

    def raising(record: logging.LogRecord) -> bool:
        raise ZeroDivisionError

    logger = logging.getLogger("qorb_trio.qtop")
    logger.addFilter(raising)
    try:
        async with a_pool() as pool, trio.open_nursery() as nursery:
            (listener,) = await nursery.start(qtop.serve, [pool], "127.0.0.1", 0)
            port = listener.socket.getsockname()[1]
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(b"GET \x00 HTTP\r\n\r\n")
                assert await read_all(stream) == b""
            target = Target("ws", "127.0.0.1", port, f"127.0.0.1:{port}", "/qtop/stats")
            async with connect(target) as socket:
                assert await message(socket)
            nursery.cancel_scope.cancel()
    finally:
        logger.removeFilter(raising)


async def test_asking_where_a_holder_is() -> None:
    """A client may ask for the stack of a holder; what is no question is passed over."""
    async with a_pool() as pool, a_program(pool) as program:
        async with pool.claim(), program.watched() as socket:
            (holder,) = (await message(socket))["holders"]
            for nonsense in ("", "[" * 4000, "[]", "{}", '{"stack": 1}'):
                await socket.send(nonsense)
            await socket.send(json.dumps({"stack": holder}))
            answer = (await message(socket))["stack"]
    assert answer.items() >= {"pool": "db", "id": holder["id"], "since": holder["since"]}.items()
    assert "test_asking_where_a_holder_is" in answer["text"]


# --- serve() ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (lambda pool: ([],), "at least one pool"),
        (lambda pool: ([pool], "0.0.0.0"), "not a loopback address"),
        (lambda pool: ([pool], ""), "not a loopback address"),
        (lambda pool: ([pool], "127.0.0.1", -1), "port must be at least 0"),
        (lambda pool: ([pool], "127.0.0.1", 65536), "port must be at most 65535"),
    ],
)
async def test_wrong_values(arguments: Callable[[Any], tuple[Any, ...]], error: str) -> None:
    """A wrong value is refused at the call, before anything is started."""
    async with a_pool() as pool, trio.open_nursery() as nursery:
        with pytest.raises(ValueError, match=error):
            nursery.start_soon(partial(qtop.serve, *arguments(pool)))


@pytest.mark.parametrize(
    ("arguments", "named", "error"),
    [
        (lambda pool: (pool,), {}, "not iterable"),
        (lambda pool: (["db"],), {}, "pools: each must be a Pool"),
        (lambda pool: ([pool], None), {}, "host must be a str"),
        (lambda pool: ([pool], "127.0.0.1", "80"), {}, "port must be an int"),
        (lambda pool: ([pool],), {"token": 7}, "token must be a str"),
        (lambda pool: ([pool],), {"allowed_hosts": "a.test"}, "allowed_hosts must be a coll"),
    ],
)
async def test_wrong_types(
    arguments: Callable[[Any], tuple[Any, ...]], named: dict[str, Any], error: str
) -> None:
    """An argument of a wrong type is refused with an error that names it."""
    async with a_pool() as pool:
        with pytest.raises(TypeError, match=error):
            await qtop.serve(*arguments(pool), **named)


@pytest.mark.real
async def test_j_a_port_in_use() -> None:
    """An `OSError` that names the port comes out of the nursery if `serve` cannot listen."""
    async with a_pool() as pool:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener:
            port = listener.socket.getsockname()[1]
            said = f"qtop.serve cannot listen on 127.0.0.1 port {port}: Address already in use"
            with pytest.RaisesGroup(pytest.RaisesExc(OSError, match=said)):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(qtop.serve, [pool], "127.0.0.1", port)


@pytest.mark.real
async def test_j_the_port_that_the_system_chose(caplog: pytest.LogCaptureFixture) -> None:
    """With ``port=0`` the log tells where it listens, and so does ``nursery.start``."""
    caplog.set_level(logging.INFO, "qorb_trio.qtop")
    async with a_pool() as pool, trio.open_nursery() as nursery:
        (listener,) = await nursery.start(qtop.serve, [pool], "127.0.0.1", 0)
        port = listener.socket.getsockname()[1]
        assert f"qtop.serve listens on 127.0.0.1 port {port}" in caplog.messages
        nursery.cancel_scope.cancel()


@pytest.mark.real
async def test_cancelling_it_closes_everything() -> None:
    """After a cancellation the port is free again and the clients are disconnected."""
    async with a_pool() as pool, trio.open_nursery() as outer:
        nursery = await outer.start(open_nursery)
        listeners = await nursery.start(qtop.serve, [pool], "localhost", 0)
        port = listeners[0].socket.getsockname()[1]
        address = f"127.0.0.1:{port}"
        async with connect(Target("ws", "127.0.0.1", port, address, "/qtop/stats")) as socket:
            await message(socket)
            nursery.cancel_scope.cancel()
            assert await socket.receive() is None
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream("127.0.0.1", port)
        assert not await is_recorded(pool)
        outer.cancel_scope.cancel()


async def open_nursery(  # noqa: ASYNC114
    task_status: trio.TaskStatus[trio.Nursery],
) -> None:
    """A nursery in a task of its own."""
    async with trio.open_nursery() as nursery:
        task_status.started(nursery)
        await trio.sleep_forever()


# --- What it costs ----------------------------------------------------------------------


async def test_nobody_watches_and_nothing_is_recorded() -> None:
    """The pool's events are recorded while there is a client, and at no other time."""
    async with a_pool() as pool, a_program(pool) as program:

        async def is_recorded_now() -> bool:
            await trio.testing.wait_all_tasks_blocked()
            return await is_recorded(pool)

        assert not await is_recorded_now()
        async with program.watched() as first, program.watched() as second:
            await message(first)
            await message(second)
            assert await is_recorded_now()
            await second.close()
            assert await is_recorded_now()
        assert not await is_recorded_now()
