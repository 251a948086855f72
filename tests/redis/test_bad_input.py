"""Wrong passwords, wrong databases, wrong servers: the claim's error and the log say so."""

from __future__ import annotations

import logging
import ssl
from typing import Any

import attrs
import pytest
import trio

import _services
from _services import redis_servers
from qorb_trio import (
    Backend,
    FixedResolver,
    NoBackendsOnlineError,
    Policy,
    SetConfig,
    TlsConnector,
    open_pool,
)
from qorb_trio.redis import RedisConnector

from ..harness.answering import answering_server

pytestmark = pytest.mark.real

NEEDS_REDIS = pytest.mark.skipif(
    _services.missing("redis-server") is not None, reason="redis-server is not installed"
)

POLICY = Policy(
    max_slots=1,
    spares_wanted=1,
    set_config=SetConfig(connect_timeout=0.4, min_connection_backoff=5),
)


async def refused(backend: Backend, policy: Policy = POLICY, **options: Any) -> str:
    """Return the error of a claim that waits for one attempt to connect."""
    async with (
        trio.open_nursery() as nursery,
        open_pool(
            nursery, FixedResolver([backend]), RedisConnector(**options), policy=policy
        ) as pool,
    ):
        with pytest.raises(NoBackendsOnlineError) as caught:
            await pool.acquire(timeout=1)
    return str(caught.value)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings of the log."""
    return [it.getMessage() for it in caplog.records if it.levelno >= logging.WARNING]


@NEEDS_REDIS
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"username": "nobody", "password": "x"}, "WRONGPASS"),
        ({"password": "x"}, "without any password configured"),
        ({"db": 99}, "DB index is out of range"),
    ],
)
async def test_a_redis_that_refuses(
    options: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The server's own words are in the claim's error, and once in the log."""
    async with redis_servers() as [server]:
        assert words in await refused(server.backend, **options)
    [line] = warnings(caplog)
    assert words in line


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", 'or expects TLS: Protocol error, got "H"'),
        (b"\x15\x03\x01\0\x02\x02\x46", "or expects TLS: Protocol error, got"),  # a TLS alert
        (b"", "hangs, is no Redis server, or expects TLS"),
        (b"*1\r\n$4\r\nPING\r\n", "is no Redis server: it answers PING with [b'PING']"),
    ],
    ids=["http", "tls", "silent", "echo"],
)
async def test_a_server_that_is_no_redis(
    answer: bytes, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A server of another protocol is named as such within one attempt, even a silent one."""
    async with answering_server(answer) as backend:
        assert words in await refused(backend)
    [line] = warnings(caplog)
    assert words in line


@pytest.mark.parametrize("how", ["closes", "resets"])
async def test_a_server_that_closes_instead_of_an_answer(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """PostgreSQL does so, and Redis where it expects TLS; the error names these mistakes."""
    words = "closed the connection before it answered: it was stopped, is no Redis server, or"
    async with answering_server(b"", closes=how == "closes", resets=how == "resets") as backend:
        assert words in await refused(backend)
    [line] = warnings(caplog)
    assert words in line


async def test_a_server_that_closes_after_its_first_answer() -> None:
    """A server that has answered is a Redis, so that the error says no more than what happened."""
    async with answering_server(b"+OK\r\n", closes=True) as backend:
        error = await refused(backend, password="right")
    assert "the connection was lost: the server has closed it" in error


@NEEDS_REDIS
async def test_tls_where_the_server_has_none(caplog: pytest.LogCaptureFixture) -> None:
    """Redis does not answer a TLS handshake, and the error says what that means."""
    context = ssl.create_default_context()
    config = attrs.evolve(POLICY.set_config, connect_timeout=0.5)
    policy = attrs.evolve(POLICY, set_config=config)
    async with redis_servers() as [server]:
        error = await refused(server.backend, policy, tcp=TlsConnector(context))
    assert "TLS handshake" in error
    assert "or does not speak TLS" in error
    [line] = warnings(caplog)
    assert "or does not speak TLS" in line


async def test_the_first_connect_is_still_under_way() -> None:
    """A claim whose time is up before any connect has ended says that."""
    policy = attrs.evolve(POLICY, set_config=SetConfig())
    async with answering_server(b"") as backend:
        assert "no connect has ended yet" in await refused(backend, policy)
