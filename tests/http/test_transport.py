"""`PoolTransport`: requests and responses, whole, early, and cut short."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import attrs
import h11
import httpx  # noqa: ASYNC127 - both are tested
import pytest
import trio

from qorb_trio import (
    Backend,
    ClaimTimeoutError,
    FixedResolver,
    Policy,
    PoolTerminatedError,
    open_pool,
)
from qorb_trio.http import HttpConnector, PoolTransport
from qorb_trio.testing import FakeConnector

from .kit import LIBRARIES, POLICY, URL, Peer, Web, as_any, both, hello, web


@both
async def test_a_request_and_its_response(library: Any) -> None:
    """The head, the body and the particulars of a response are those that the server sent."""

    async def serve(peer: Peer) -> None:
        request = await peer.head()
        assert dict(request.headers)[b"host"] == b"service.test"
        await peer.body()
        await peer.answer(b"body", 404, [("X-A", "1"), ("X-A", "2")])
        await peer.head()

    async with web(serve, library) as it:
        response = await it.client.get(URL)
        assert (response.status_code, response.text) == (404, "body")
        assert response.headers.get_list("x-a") == ["1", "2"]
        assert response.http_version == "HTTP/1.1"
        assert response.extensions["backend"].name == "web.test:80"
        assert isinstance(response, library.Response)
        assert it.streams.targets == ["/path?q=1"]


def test_the_transport_is_one_of_both_packages() -> None:
    """Type checks of either package accept it."""
    for library in LIBRARIES:
        assert issubclass(PoolTransport, library.AsyncBaseTransport)


async def test_connections_are_kept_alive() -> None:
    """Complete exchanges use one connection, and each gets its own answer."""
    async with web() as it:
        for number in range(20):
            assert (await it.client.get(f"http://a.test/{number}")).text == f"/{number}"
        assert len(it.streams.peers) == 1
        assert it.pool.stats().claims == 20


@pytest.mark.parametrize("side", ["server", "client", "HTTP/1.0"])
async def test_connection_close(side: str) -> None:
    """A connection that either side wants to close is not lent again."""

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.body()
        if side == "HTTP/1.0":
            await peer.stream.send_all(b"HTTP/1.0 200 OK\r\n\r\nhello")
        else:
            headers = [("Connection", "close")] if side == "server" else []
            await peer.answer(headers=headers, reuse=False)

    async with web(serve) as it:
        headers = {"Connection": "close"} if side == "client" else {}
        for _ in range(3):
            assert (await it.client.get(URL, headers=headers)).text == "hello"
        assert len(it.streams.peers) >= 3
        assert it.pool.stats().backends["web.test:80"].failures == 0


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_responses_without_a_body(method: str) -> None:
    """A response to HEAD, and one that has no content, ends with its head."""

    async def serve(peer: Peer) -> None:
        while True:
            await peer.head()
            await peer.body()
            status = 200 if method == "HEAD" else 204
            await peer.send(h11.Response(status_code=status, headers=[]), h11.EndOfMessage())
            peer.http.start_next_cycle()

    async with web(serve) as it:
        for _ in range(2):
            assert (await it.client.request(method, URL)).content == b""
        assert len(it.streams.peers) == 1


async def test_interim_responses_are_skipped() -> None:
    """Early hints, and a 100 that was not requested, are skipped before the response."""

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.body()
        for status in (103, 100):
            await peer.send(h11.InformationalResponse(status_code=status, headers=[]))
        await peer.answer()

    async with web(serve) as it:
        assert (await it.client.get(URL)).text == "hello"


# ------------------------------------------------------------------------ streaming


class Chunks:
    """A body that is yielded in parts, and may end in an error.

    Not a generator, because Python complains about one that is not exhausted.
    """

    def __init__(self, *parts: bytes, error: Exception | None = None, delay: float = 0) -> None:
        self.parts = list(parts)
        self.error = error
        self.delay = delay
        self.ready = trio.Event()
        self.ready.set()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await self.ready.wait()
        await trio.sleep(self.delay)
        if self.parts:
            return self.parts.pop(0)
        raise self.error or StopAsyncIteration


@both
async def test_streaming_both_ways(library: Any) -> None:
    """A body is sent as its iterator yields it, and read as it arrives."""

    async def serve(peer: Peer) -> None:
        await peer.head()
        body = await peer.body()
        await peer.send(h11.Response(status_code=200, headers=[]))
        for start in range(0, len(body), 3):
            await peer.send(h11.Data(data=body[start : start + 3]))
            await trio.testing.wait_all_tasks_blocked()
        await peer.send(h11.EndOfMessage())

    async with web(serve, library) as it:
        content = Chunks(b"abc", b"", b"defg")
        async with it.client.stream("POST", URL, content=content) as response:
            parts = [part async for part in response.aiter_raw()]
        assert b"".join(parts) == b"abcdefg"
        assert len(parts) > 1
        assert len(it.streams.peers) == 1


async def test_a_large_body_is_sent_in_pieces() -> None:
    """A body of many kilobytes arrives whole."""

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.answer(str(len(await peer.body())).encode())
        await peer.head()

    async with web(serve) as it:
        response = await it.client.put(URL, content=b"x" * 300_000)
        assert response.text == "300000"
        assert len(it.streams.peers) == 1


async def test_a_response_that_is_not_read_discards_its_connection() -> None:
    """The rest of a response never reaches the next request."""

    async def serve(peer: Peer) -> None:
        target = (await peer.head()).target
        await peer.body()
        await peer.send(h11.Response(status_code=200, headers=[]), h11.Data(data=target))
        await trio.sleep_forever()

    async with web(serve) as it:
        transport = PoolTransport(it.pool)
        for number in range(3):
            request = httpx.Request("GET", f"http://a.test/{number}")
            response = await transport.handle_async_request(request)
            assert await anext(aiter(as_any(response.stream))) == f"/{number}".encode()
            await response.aclose()
            await response.aclose()  # once more does nothing
            await it.settle()
            it.assert_clean()
        assert it.streams.closed == 3


async def test_a_response_that_was_received_whole_frees_its_connection() -> None:
    """A small response is complete before anyone reads it, so nothing is held for it."""
    async with web() as it:
        async with it.client.stream("GET", URL) as response:
            it.assert_clean()
            assert it.streams.closed == 0
            assert await response.aread() == b"/path?q=1"
            await response.aclose()
        assert len(it.streams.peers) == 1


async def test_bytes_after_a_response_discard_the_connection() -> None:
    """A server that says more than it was asked is not asked again on that connection."""

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK")
        await trio.sleep_forever()

    async with web(serve) as it:
        for _ in range(2):
            assert (await it.client.get(URL)).text == "ok"
        await it.settle()
        assert it.streams.closed == 2


# ----------------------------------------------------------- expectations, early answers


async def test_expect_100_continue(autojump_clock: trio.abc.Clock) -> None:
    """The body is sent when the server has asked for it."""
    heard = []

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(h11.InformationalResponse(status_code=103, headers=[]))
        with trio.move_on_after(0.5):
            heard.append(await peer.stream.receive_some())
        await peer.send(h11.InformationalResponse(status_code=100, headers=[]))
        await peer.answer(await peer.body())
        await peer.head()

    async with web(serve) as it:
        response = await it.client.post(URL, content=b"body", headers={"Expect": "100-continue"})
        assert response.text == "body"
        assert heard == []
        assert len(it.streams.peers) == 1


async def test_a_server_that_knows_no_expectations(autojump_clock: trio.abc.Clock) -> None:
    """After a second without an answer the body is sent anyway."""

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.answer(await peer.body())

    async with web(serve) as it:
        start = trio.current_time()
        response = await it.client.post(URL, content=b"body", headers={"Expect": "100-Continue"})
        assert response.text == "body"
        assert trio.current_time() - start == pytest.approx(1)


async def test_an_expectation_that_is_refused() -> None:
    """The body is not sent, and the connection is not lent again."""

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.answer(b"no", 417, reuse=False)
        assert not await peer.stream.receive_some()

    async with web(serve) as it:
        response = await it.client.post(URL, content=b"body", headers={"Expect": "100-continue"})
        assert (response.status_code, response.text) == (417, "no")
        await it.settle()
        assert it.streams.closed == 1


@pytest.mark.parametrize("status", [413, 503])
async def test_an_early_answer_ends_the_body(status: int) -> None:
    """A server that refuses a body while it is being sent is heard, and the rest is not sent."""
    asked = 0

    class Endless:
        def __aiter__(self) -> Endless:
            return self

        async def __anext__(self) -> bytes:
            nonlocal asked
            asked += 1
            await trio.testing.wait_all_tasks_blocked()
            return b"x" * 1000

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.event()
        await peer.answer(b"too much", status, reuse=False)
        await trio.sleep_forever()

    async with web(serve) as it:
        response = await it.client.post(URL, content=Endless())
        assert (response.status_code, response.text) == (status, "too much")
        assert asked < 10
        await it.settle()
        assert it.streams.closed == 1


async def test_an_early_answer_before_the_server_hangs_up() -> None:
    """A server that answers, and reads no more, is heard although sending fails."""
    body = Chunks(b"x", b"y")
    body.ready = trio.Event()

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.answer(b"no", 413, reuse=False)
        await peer.stream.aclose()
        body.ready.set()

    async with web(serve) as it:
        response = await it.client.post(URL, content=body)
        assert (response.status_code, response.text) == (413, "no")


async def test_an_answer_of_a_server_that_reads_no_more() -> None:
    """Sending fails first, and the answer is still waited for."""
    body = Chunks(b"x", b"y")
    body.ready = trio.Event()

    async def serve(peer: Peer) -> None:
        await peer.head()
        await as_any(peer.stream).receive_stream.aclose()
        body.ready.set()
        await trio.testing.wait_all_tasks_blocked()
        await peer.answer(b"no", 413, reuse=False)

    async with web(serve) as it:
        response = await it.client.post(URL, content=body)
        assert (response.status_code, response.text) == (413, "no")


@pytest.mark.parametrize("lockstep", [True, False])
async def test_a_server_that_answers_while_it_reads(lockstep: bool) -> None:
    """A response that begins early is kept, up to a limit, while the body is sent to its end."""

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(h11.Response(status_code=200, headers=[]))
        while not isinstance(event := await peer.event(), h11.EndOfMessage):
            await peer.send(h11.Data(data=bytes(event.data)))
        await peer.send(h11.EndOfMessage())
        peer.http.start_next_cycle()
        await peer.head()

    async with web(serve, lockstep=lockstep) as it:
        parts = [bytes([65 + n % 26]) * 10_000 for n in range(50 if lockstep else 200)]
        async with it.client.stream("POST", URL, content=Chunks(*parts)) as response:
            assert await response.aread() == b"".join(parts)
        assert it.streams.closed == 0


async def test_a_server_that_answers_and_closes_while_it_reads() -> None:
    """The end of an early response is no error while the body is still being sent."""
    body = Chunks(b"x")
    body.ready = trio.Event()

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.stream.send_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nearly")
        await as_any(peer.stream).send_eof()
        await trio.testing.wait_all_tasks_blocked()
        body.ready.set()
        await peer.body()

    async with web(serve) as it:
        assert (await it.client.post(URL, content=body)).text == "early"


# ------------------------------------------------------------------- lost connections


def dying(times: int, answer: bytes = b"") -> Any:
    """Return a server whose first connections end after a request."""
    left = times

    async def serve(peer: Peer) -> None:
        nonlocal left
        await peer.head()
        if left:
            left -= 1
            await peer.stream.send_all(answer)
            return
        await peer.body()
        await peer.answer(b"alive")
        await hello(peer)

    return serve


@both
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
async def test_a_lost_connection_is_no_matter_for_idempotent_methods(
    library: Any, method: str
) -> None:
    """The request is sent again, up to `retries` times."""
    async with web(dying(2), library) as it:
        assert (await it.client.request(method, URL)).status_code == 200
        assert len(it.streams.peers) >= 3
    async with web(dying(3), library) as it:
        with pytest.raises(library.ReadError, match="closed the connection before it answered"):
            await it.client.request(method, URL)
    async with web(dying(1), library, retries=0) as it:
        with pytest.raises(library.ReadError):
            await it.client.request(method, URL)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_a_lost_connection_is_an_error_for_other_methods(method: str) -> None:
    """A request that the server may have carried out is not sent again."""
    async with web(dying(1)) as it:
        with pytest.raises(httpx.ReadError):
            await it.client.request(method, URL, content=b"x")
        assert it.streams.targets == ["/path?q=1"]


async def test_a_head_that_is_cut_off_is_repeated() -> None:
    """Nothing of the response was shown, so an idempotent request may be sent again."""
    async with web(dying(1, b"HTTP/1.1 200 OK\r\nContent-Le")) as it:
        assert (await it.client.get(URL)).text == "alive"


@pytest.mark.parametrize("reason", [None, ConnectionResetError("reset by the peer")])
async def test_a_stale_connection_is_found_before_anything_is_sent(
    reason: Exception | None,
) -> None:
    """A request of any method is sent over another connection if nothing was sent yet."""

    def is_broken(stream: trio.abc.Stream) -> bool:
        if reason is not None:
            raise reason
        return True

    async with web() as it:
        async with it.pool.claim() as conn:
            as_any(conn)._is_broken = is_broken  # closed after it was handed out
        assert (await it.client.post(URL, content=b"x")).status_code == 200
        assert it.streams.targets == ["/path?q=1"]
        assert len(it.streams.peers) == 2


async def test_a_body_that_was_begun_is_not_sent_again() -> None:
    """An iterator yields only once."""
    async with web(dying(1)) as it:
        with pytest.raises(httpx.ReadError):
            await it.client.put(URL, content=Chunks(b"x"))


async def test_a_large_body_of_bytes_is_sent_again() -> None:
    """Bytes can be sent as often as it takes."""
    async with web(dying(1)) as it:
        response = await it.client.put(URL, content=b"x" * 100_000)
        assert response.text == "alive"


async def test_a_body_that_is_cut_off_is_an_error() -> None:
    """A response whose body ends early is no shorter response."""

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    async with web(serve) as it:
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message"):
            await it.client.get(URL)


@pytest.mark.parametrize("nonsense", [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 101 x\r\n\r\n"])
async def test_a_server_that_speaks_another_protocol(nonsense: bytes) -> None:
    """A protocol error is not repeated."""
    async with web(dying(5, nonsense)) as it:
        with pytest.raises(httpx.RemoteProtocolError):
            await it.client.get(URL, headers={"Connection": "upgrade", "Upgrade": "x"})
        with pytest.raises(httpx.RemoteProtocolError):
            await it.client.post(URL, content=Chunks(b"x"))
        assert len(it.streams.targets) == 2


async def test_a_body_of_the_wrong_length() -> None:
    """An iterator that yields more than was announced is the request's fault."""

    async def serve(peer: Peer) -> None:
        await peer.head()
        await trio.sleep_forever()

    async with web(serve) as it:
        with pytest.raises(httpx.LocalProtocolError):
            await it.client.post(URL, content=Chunks(b"abc"), headers={"Content-Length": "2"})
        with pytest.raises(httpx.LocalProtocolError):
            await it.client.get(URL, headers={"Host": "a\nb"})


async def test_an_error_of_the_body_comes_out_unchanged() -> None:
    """An error of the body's iterator is the caller's own."""
    error = trio.BrokenResourceError("of another stream")

    async def serve(peer: Peer) -> None:
        await peer.head()
        await trio.sleep_forever()

    async with web(serve) as it:
        with pytest.raises(trio.BrokenResourceError) as caught:
            await it.client.post(URL, content=Chunks(b"x", error=error))
        assert caught.value is error
        assert len(it.streams.targets) == 1


async def test_a_request_that_is_cancelled(autojump_clock: trio.abc.Clock) -> None:
    """Cancelled before, during and after its head, a request leaves nothing half done."""

    async def serve(peer: Peer) -> None:
        await peer.head()
        await trio.sleep(1)
        await peer.send(h11.Response(status_code=200, headers=[]))
        await trio.sleep_forever()

    async with web(serve) as it:
        for seconds in (0, 0.5, 2):
            with trio.move_on_after(seconds):
                await it.client.get(URL)
            with trio.move_on_after(seconds):
                await it.client.post(URL, content=Chunks(b"x", delay=0.7))
            await it.settle()
            it.assert_clean()


async def test_an_answer_in_pieces_to_a_body_in_pieces() -> None:
    """The head of a response may take several reads, during and after the body."""
    body = Chunks(b"x")
    body.ready = trio.Event()

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.stream.send_all(b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 20")
        await trio.testing.wait_all_tasks_blocked()
        body.ready.set()
        await peer.body()
        for part in (b"0 O", b"K\r\nContent-Length: 2\r\n\r\n", b"ok"):
            await trio.testing.wait_all_tasks_blocked()
            await peer.stream.send_all(part)
        await trio.sleep_forever()

    async with web(serve) as it:
        assert (await it.client.post(URL, content=body)).text == "ok"


async def test_a_request_is_repeated_at_another_backend() -> None:
    """A server that has lost one connection may have lost all of them."""
    asked: list[Backend] = []

    async def serve(peer: Peer) -> None:
        target = (await peer.head()).target
        if len(it.streams.targets) > 1:
            await peer.body()
            await peer.answer(target)

    backends = [Backend(("web.test", port)) for port in (80, 81)]
    policy = attrs.evolve(POLICY, max_slots=6, spares_wanted=6)
    async with web(serve, backends=backends, policy=policy) as it:
        await it.pool.wait_ready(6)
        transport = PoolTransport(it.pool)
        as_any(transport)._pool = Recorded(it.pool, asked)
        response = await transport.handle_async_request(httpx.Request("GET", URL))
        await response.aread()
        assert len(asked) == len(set(asked)) == 2


class Recorded:
    """A pool that remembers which backends were claimed."""

    def __init__(self, pool: Any, asked: list[Backend]) -> None:
        self._pool = pool
        self._asked = asked

    async def acquire(self, **options: Any) -> Any:
        """Claim a connection."""
        claim = await self._pool.acquire(**options)
        self._asked.append(claim.backend)
        return claim


# --------------------------------------------------------------------------- timeouts


async def silent(peer: Peer) -> None:
    """Read everything, and answer nothing."""
    await peer.head()
    await peer.body()
    await trio.sleep_forever()


def timeouts(library: Any, **seconds: float) -> dict[str, Any]:
    """Return the options of a client with one timeout."""
    return {"timeout": library.Timeout(None, **seconds)}


@both
@pytest.mark.parametrize("content", [b"x", b"x" * 100_000])
async def test_read_timeout(autojump_clock: trio.abc.Clock, library: Any, content: bytes) -> None:
    """A server that does not answer is waited for as long as ``read`` says."""
    async with web(silent, library, client=timeouts(library, read=3)) as it:
        start = trio.current_time()
        with pytest.raises(library.ReadTimeout, match="read timeout of 3 s"):
            await it.client.put(URL, content=content)
        assert trio.current_time() - start == pytest.approx(3)


async def test_read_timeout_of_a_server_that_has_served(autojump_clock: trio.abc.Clock) -> None:
    """A server that has answered before is not taken for one of another protocol."""

    async def once(peer: Peer) -> None:
        await peer.head()
        await peer.body()
        await peer.answer()
        await silent(peer)

    async with web(once, client=timeouts(httpx, read=3)) as it:
        await it.client.get(URL)
        with pytest.raises(httpx.ReadTimeout, match=r"^the read timeout of 3 s is over$"):
            await it.client.get(URL)


async def test_read_timeout_counts_from_the_end_of_the_request(
    autojump_clock: trio.abc.Clock,
) -> None:
    """While the body is being sent, the server has time to answer."""
    async with web(silent, client=timeouts(httpx, read=3)) as it:
        start = trio.current_time()
        with pytest.raises(httpx.ReadTimeout):
            await it.client.post(URL, content=Chunks(*[b"x"] * 4, delay=2))
        assert trio.current_time() - start == pytest.approx(13)


async def test_read_timeout_of_a_body(autojump_clock: trio.abc.Clock) -> None:
    """Each wait for a part of the body has the timeout for itself."""

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(h11.Response(status_code=200, headers=[]))
        for _ in range(3):
            await trio.sleep(2)
            await peer.send(h11.Data(data=b"x"))
        await trio.sleep_forever()

    async with web(serve, client=timeouts(httpx, read=3)) as it:
        start = trio.current_time()
        with pytest.raises(httpx.ReadTimeout):
            await it.client.get(URL)
        assert trio.current_time() - start == pytest.approx(9)


@pytest.mark.parametrize("content", [b"x", b"x" * 100_000])
async def test_write_timeout(autojump_clock: trio.abc.Clock, content: bytes) -> None:
    """A server that does not read is waited for as long as ``write`` says."""
    async with web(silent, client=timeouts(httpx, write=3)) as it:
        await it.client.aclose()
    async with web(silent, client=timeouts(httpx, write=3)) as it:
        async with it.pool.claim() as conn:

            async def stall(data: bytes) -> None:
                await trio.sleep_forever()

            as_any(conn.stream).send_all = stall
        start = trio.current_time()
        with pytest.raises(httpx.WriteTimeout):
            await it.client.post(URL, content=content)
        assert trio.current_time() - start == pytest.approx(3)


@both
async def test_pool_timeout(autojump_clock: trio.abc.Clock, library: Any) -> None:
    """The time until there is a connection is bounded by ``pool``, and the cause says more."""
    options = timeouts(library, pool=3)
    async with web(hello, library, client=options) as it:
        claims = [await it.pool.acquire()]
        start = trio.current_time()
        with pytest.raises(library.PoolTimeout) as caught:
            await it.client.get(URL)
        assert trio.current_time() - start == pytest.approx(3)
        assert isinstance(caught.value.__cause__, ClaimTimeoutError)
        for claim in claims:
            claim.release()


async def test_without_a_pool_timeout_the_policy_holds(autojump_clock: trio.abc.Clock) -> None:
    """A request whose timeouts say nothing of the pool waits as the policy says."""
    async with web(policy=attrs.evolve(POLICY, claim_timeout=7)) as it:
        claims = [await it.pool.acquire()]
        request = httpx.Request("GET", URL, extensions={"timeout": {"read": 1}})
        start = trio.current_time()
        with pytest.raises(httpx.PoolTimeout):
            await PoolTransport(it.pool).handle_async_request(request)
        assert trio.current_time() - start == pytest.approx(7)
        with trio.move_on_after(math.nextafter(100, 0)) as scope:
            await it.client.get(URL)  # None: no limit
        assert scope.cancelled_caught
        for claim in claims:
            claim.release()


async def test_a_pool_that_has_ended() -> None:
    """A request over a pool that has ended raises `httpx.ConnectError`."""
    async with web() as it:
        await it.pool.terminate()
        with pytest.raises(httpx.ConnectError) as caught:
            await it.client.get(URL)
        assert isinstance(caught.value.__cause__, PoolTerminatedError)


async def test_a_pool_that_ends_under_a_response(autojump_clock: trio.abc.Clock) -> None:
    """A response whose connection the pool has closed cannot be read."""

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(h11.Response(status_code=200, headers=[]), h11.Data(data=b"x"))
        await trio.sleep_forever()

    async with web(serve) as it:
        async with it.client.stream("GET", URL) as response:
            await it.pool.terminate()
            with pytest.raises(httpx.ReadError):
                await response.aread()


# ---------------------------------------------------------------- verdicts and refusals


async def test_verdicts() -> None:
    """Each claim says if the backend served it well, but a connection lost in idleness does not."""
    answers = [(b"a", 200), (b"b", 500), (b"c", 404)]

    async def serve(peer: Peer) -> None:
        for body, status in answers:
            await peer.head()
            await peer.body()
            await peer.answer(body, status)
        await peer.head()

    def failed(it: Web) -> int:
        return it.pool.stats().backends["web.test:80"].failed_claims

    async with web(serve, is_failure=lambda response: response.status_code >= 500) as it:
        for count in (0, 1, 1):
            await it.client.get(URL)
            assert failed(it) == count
        with pytest.raises(httpx.ReadError):
            await it.client.post(URL)  # the connection has served before
        assert failed(it) == 1
    async with web(dying(5)) as it:
        with pytest.raises(httpx.ReadError):
            await it.client.get(URL)
        assert failed(it) == 3


async def test_a_response_that_is_closed_early_has_its_verdict() -> None:
    """The predicate's verdict counts although the body was not read."""

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(h11.Response(status_code=503, headers=[]))
        await trio.sleep_forever()

    async with web(serve, is_failure=lambda response: response.status_code >= 500) as it:
        async with it.client.stream("GET", URL):
            (holder,) = it.pool.holders()
            assert holder.label == "GET /path"
        assert it.pool.stats().backends["web.test:80"].failed_claims == 1


async def test_a_predicate_that_raises() -> None:
    """The predicate's error comes out, and the connection is not left half used."""

    def fail(response: httpx.Response) -> bool:
        raise ZeroDivisionError

    async with web(is_failure=fail) as it:
        with pytest.raises(ZeroDivisionError):
            await it.client.get(URL)


@both
@pytest.mark.parametrize(
    ("method", "url", "words"),
    [
        ("GET", "ftp://a.test/", "scheme 'ftp'"),
        ("GET", "ws://a.test/", "scheme 'ws'"),
        ("CONNECT", URL, "proxies"),
        ("GET", "https://a.test/", "connections are plain: use a URL of http, not https"),
    ],
)
async def test_what_is_not_supported_is_refused(
    library: Any, method: str, url: str, words: str
) -> None:
    """The error says what is wrong, and nothing is sent."""
    async with web(library=library) as it:
        with pytest.raises(library.UnsupportedProtocol, match=words):
            await PoolTransport(it.pool).handle_async_request(library.Request(method, url))
        assert it.streams.targets == []
        assert it.streams.closed == 0


async def test_the_target_of_a_request_may_be_given() -> None:
    """The extension by which httpx asks for ``OPTIONS *`` is obeyed."""
    async with web() as it:
        await it.client.request("OPTIONS", URL, extensions={"target": b"*"})
        assert it.streams.targets == ["*"]


async def test_wrong_arguments() -> None:
    """Each wrong argument is refused by name, and a request must be one."""
    async with (
        trio.open_nursery() as nursery,
        open_pool(nursery, FixedResolver([]), FakeConnector(), policy=Policy()) as other,
    ):
        pool = as_any(other)
        for options, error, word in (
            ({"pool": 1}, TypeError, "pool"),
            ({"pool": pool, "retries": -1}, ValueError, "retries"),
            ({"pool": pool, "is_failure": 1}, TypeError, "is_failure"),
        ):
            with pytest.raises(error, match=word):
                PoolTransport(**as_any(options))
        with pytest.raises(TypeError, match="request must be a Request"):
            await PoolTransport(pool).handle_async_request(as_any("GET /"))


def test_the_connector_is_what_a_pool_needs() -> None:
    """The default is plain TCP, without a probe."""
    connector = HttpConnector()
    assert not connector.needs_recycle(as_any(None))
