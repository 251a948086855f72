"""A PostgreSQL server for the tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from qorb_trio.postgres import PostgresConnection
from tests.postgres.kit import PostgresServer, postgres_server


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """A server for tests that do it no harm."""
    with postgres_server() as running:
        yield running


@pytest.fixture
async def conn(server: PostgresServer) -> AsyncIterator[PostgresConnection]:
    """A connection without a pool, with a transaction for each statement."""
    connection = await PostgresConnection.connect(server.conninfo, autocommit=True)
    yield connection
    connection.lock.close()
