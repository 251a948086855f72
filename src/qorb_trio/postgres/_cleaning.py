"""Cleaning a connection between two claims: what is cheap is asked first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import psycopg

from ._drain import command

if TYPE_CHECKING:
    from psycopg import pq

    from ._connection import PostgresConnection

#: What ``DISCARD ALL`` does according to PostgreSQL's manual, but for ``DEALLOCATE ALL``:
#: psycopg relies on its prepared statements.
RESET_SESSION: Final = (
    "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *;"
    " SELECT pg_catalog.pg_advisory_unlock_all();"
    " DISCARD PLANS; DISCARD TEMP; DISCARD SEQUENCES"
)


def settings_of(conn: PostgresConnection[Any]) -> tuple[object, ...]:
    """Return what a claimant can change on the Python side of a connection."""
    return (
        conn.autocommit,
        conn.isolation_level,
        conn.read_only,
        conn.deferrable,
        conn.prepare_threshold,
        conn.row_factory,
        conn.cursor_factory,
        conn.server_cursor_factory,
    )


def is_clean(conn: PostgresConnection[Any]) -> bool:
    """Return True if there is nothing to do between two claims."""
    exchange = conn.lock
    return (
        exchange.is_idle()
        and not exchange.two_phase
        and not exchange.forget_due
        and settings_of(conn) == exchange.settings
    )


async def run(conn: PostgresConnection[Any], sql: str) -> list[pq.abc.PGresult]:
    """Run SQL outside of psycopg's transactions, and return the results."""
    async with conn.lock:
        return await conn.wait(command(conn.pgconn, sql.encode()))


async def clean(conn: PostgresConnection[Any]) -> None:
    """Bring a connection back to where it was before the claim.

    Raises:
      psycopg.Error: if that is impossible, for instance within a block that was not left.
    """
    exchange = conn.lock
    async with exchange:  # the generator of a stream may still have it, and is being closed
        await conn.settle()
    # If there is no transaction, this sends nothing, but it fails where psycopg has a record
    # of an unfinished block or of a two-phase transaction.
    await conn.rollback()
    exchange.two_phase = False
    if exchange.forget_due:
        await _forget_statements(conn)
    if settings_of(conn) != exchange.settings:
        await _restore(conn, exchange.settings)
    if not exchange.is_idle():
        raise psycopg.InterfaceError("the connection cannot be cleaned: a block was not left")


async def _forget_statements(conn: PostgresConnection[Any]) -> None:
    """Drop all prepared statements, on both sides."""
    await run(conn, "BEGIN")
    await conn.rollback()  # psycopg forgets its statements, as their tables may be gone
    await run(conn, "DEALLOCATE ALL")
    conn.lock.interruptions = 0


async def _restore(conn: PostgresConnection[Any], settings: tuple[Any, ...]) -> None:
    """Set the settings again. Outside a transaction psycopg sends nothing for that."""
    autocommit, isolation_level, read_only, deferrable, prepare_threshold, *factories = settings
    await conn.set_autocommit(autocommit)
    await conn.set_isolation_level(isolation_level)
    await conn.set_read_only(read_only)
    await conn.set_deferrable(deferrable)
    conn.prepare_threshold = prepare_threshold
    conn.row_factory, conn.cursor_factory, conn.server_cursor_factory = factories
