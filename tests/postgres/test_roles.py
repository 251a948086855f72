"""Primary and standby: pools that use one of them, during a switchover."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
import trio

import qorb_trio
from qorb_trio import Backend, FixedResolver, IneligibleBackendError, Policy, ProbedResolver
from qorb_trio.postgres import PostgresConnection, PostgresConnector
from tests.postgres.kit import NEEDS_SERVERS, USER, PostgresServer, postgres_server, value

pytestmark = NEEDS_SERVERS


async def test_roles() -> None:
    """``target_session_attrs`` and `is_primary` tell primary and standby apart."""
    with postgres_server() as primary:
        standby = PostgresServer.standby_of(primary)
        try:
            standby.start()
            await check_roles(primary, standby)
            await check_promotion(standby)
        finally:
            standby.remove()


async def check_roles(primary: PostgresServer, standby: PostgresServer) -> None:
    """Each role accepts one of two servers."""
    for role, right, wrong in (
        ("primary", primary, standby),
        ("read-write", primary, standby),
        ("standby", standby, primary),
        ("read-only", standby, primary),
    ):
        connector = PostgresConnector(USER, target_session_attrs=role)
        conn = await connector.connect(Backend(right.address))
        assert await connector.is_valid(conn)
        await conn.close()
        with pytest.raises(IneligibleBackendError, match=f"asks for {role}"):
            await connector.connect(Backend(wrong.address))
    connector = PostgresConnector(USER)
    assert await connector.is_primary(Backend(primary.address))
    assert not await connector.is_primary(Backend(standby.address))


async def check_promotion(standby: PostgresServer) -> None:
    """A standby that is promoted is none any more, which the health check notices."""
    connector = PostgresConnector(USER, target_session_attrs="standby")
    conn = await connector.connect(Backend(standby.address))
    await trio.to_thread.run_sync(standby.promote)
    assert not await connector.is_valid(conn)
    await conn.close()


@pytest.mark.parametrize("way", ["target_session_attrs", "ProbedResolver"])
async def test_switchover(way: str) -> None:
    """A pool follows the primary with default numbers, and no claim ever meets a standby."""
    with postgres_server() as primary:
        standby = PostgresServer.standby_of(primary)
        try:
            standby.start()
            await switch_over(primary, standby, way)
        finally:
            standby.remove()


async def switch_over(primary: PostgresServer, standby: PostgresServer, way: str) -> None:
    """Stop the primary and promote the standby while a pool is in use."""
    plain = FixedResolver([primary.address, standby.address])
    if way == "ProbedResolver":
        connector: PostgresConnector[Any] = PostgresConnector(USER)
        resolver: qorb_trio.Resolver = ProbedResolver(plain, connector.is_primary)
    else:
        connector, resolver = PostgresConnector(USER, target_session_attrs="primary"), plain
    ports: list[int] = []
    failed = 0

    async def use(pool: qorb_trio.Pool[PostgresConnection[Any]]) -> None:
        nonlocal failed
        while True:
            try:
                async with pool.claim() as conn:
                    assert await value(conn, "SELECT pg_is_in_recovery()") is False
                    ports.append(conn.info.port)
            except psycopg.OperationalError:
                failed += 1
            await trio.sleep(0.005)

    async with (
        trio.open_nursery() as nursery,
        qorb_trio.open_pool(nursery, resolver, connector, policy=Policy(max_slots=4)) as pool,
        trio.open_nursery() as users,
    ):
        for _ in range(4):
            users.start_soon(use, pool)
        with trio.fail_after(20):
            while ports.count(primary.port) < 20:  # noqa: ASYNC110
                await trio.sleep(0.01)
        await trio.to_thread.run_sync(primary.stop)
        await trio.to_thread.run_sync(standby.promote)
        with trio.fail_after(20):
            while ports.count(standby.port) < 20:  # noqa: ASYNC110
                await trio.sleep(0.01)
        users.cancel_scope.cancel()
    assert failed <= 4, "at most one request for each claimed connection"
