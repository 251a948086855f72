"""Exchanges with a server, as generators that psycopg's way of waiting can run."""

from __future__ import annotations

from contextlib import suppress

import psycopg
from psycopg import errors, generators, pq
from psycopg.abc import PQGen
from psycopg.waiting import Wait

_ACTIVE = pq.TransactionStatus.ACTIVE
_COPY_IN = pq.ExecStatus.COPY_IN
_COPY_OUT = pq.ExecStatus.COPY_OUT
_FATAL_ERROR = pq.ExecStatus.FATAL_ERROR


def command(pgconn: pq.abc.PGconn, sql: bytes) -> PQGen[list[pq.abc.PGresult]]:
    """Run SQL by the simple protocol, outside of psycopg's transactions."""
    pgconn.send_query(sql)
    results: list[pq.abc.PGresult] = yield from generators.execute(pgconn)
    for result in results:
        if result.status == _FATAL_ERROR:
            raise errors.error_from_result(result)
    return results


def drain(pgconn: pq.abc.PGconn) -> PQGen[None]:
    """Read and drop the rest of an exchange, until the connection waits for a command."""
    # A part of a command may be in libpq's buffer, and the server waits for the rest of it.
    yield from generators.send(pgconn)
    if pgconn.pipeline_status:
        yield from _leave_pipeline(pgconn)
    while pgconn.transaction_status == _ACTIVE:
        for result in (yield from generators.fetch_many(pgconn)):
            if result.status == _COPY_IN:
                with suppress(psycopg.Error):  # with which the server answers
                    yield from generators.copy_end(pgconn, b"cancelled")
            elif result.status == _COPY_OUT:
                yield from _skip_copy_out(pgconn)


def _skip_copy_out(pgconn: pq.abc.PGconn) -> PQGen[None]:
    """Read a COPY from the server to its end."""
    while (size := pgconn.get_copy_data(1)[0]) >= 0:
        if size == 0:
            yield Wait.R
            pgconn.consume_input()


def _leave_pipeline(pgconn: pq.abc.PGconn) -> PQGen[None]:
    """Read the answers that a pipeline still owes, and leave pipeline mode."""
    pgconn.pipeline_sync()
    yield from generators.send(pgconn)
    while True:
        try:
            pgconn.exit_pipeline_mode()
        except psycopg.OperationalError:  # answers are left
            yield from generators.fetch_many(pgconn)
        else:
            return
