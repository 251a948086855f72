"""A transaction block that can be cancelled at any point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, final

import psycopg
import trio

if TYPE_CHECKING:
    from types import TracebackType

    from ._exchange import Exchange


@final
class PostgresTransaction(psycopg.AsyncTransaction):
    """psycopg's transaction block, which ends even if it is cancelled as it leaves.

    The connection's `Exchange` keeps the ROLLBACK, and sends it before the connection is used
    again.
    """

    def __init__(
        self,
        exchange: Exchange,
        connection: psycopg.AsyncConnection[Any],
        savepoint_name: str | None,
        force_rollback: bool,
    ) -> None:
        super().__init__(connection, savepoint_name, force_rollback)
        self._exchange = exchange

    async def __aenter__(self) -> Self:
        with self._exchange.leaving():
            return await super().__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool:
        try:
            with self._exchange.leaving():
                return await super().__aexit__(exc_type, exc_val, exc_tb)  # noqa: ASYNC102
        except trio.Cancelled:
            if self.status is self.Status.ACTIVE and not self._exchange.parked:
                # It was cancelled while another task used the connection, before it could
                # note its end. psycopg's count of nested transactions is lost.
                self._exchange.close()
            raise
