"""A transaction block that can be cancelled at any point."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self, final

import psycopg
import trio

if TYPE_CHECKING:
    from collections.abc import Coroutine
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
        #: The pipelines around the block and within it; `None` outside of a pipeline.
        self._pipelines: AsyncExitStack | None = None

    # These two are no coroutines themselves, which saves a step per call.

    def __aenter__(self) -> Coroutine[Any, Any, Self]:
        return self._enter_in_pipeline() if self._exchange.pipelines else self._enter()

    def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> Coroutine[Any, Any, bool]:
        leave = self._leave if self._pipelines is None else self._leave_in_pipeline
        return leave(exc_type, exc_val, exc_tb)

    async def _enter_in_pipeline(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.connection.pipeline())
            await self._enter()
            stack.push_async_exit(self._leave)
            await stack.enter_async_context(self.connection.pipeline())
            self._pipelines = stack.pop_all()
        return self

    async def _leave_in_pipeline(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool:
        assert self._pipelines is not None
        return bool(await self._pipelines.__aexit__(exc_type, exc_val, exc_tb))

    async def _enter(self) -> Self:
        leaving, task = self._exchange.leaving, trio.lowlevel.current_task()
        leaving.add(task)
        try:
            return await super().__aenter__()
        finally:
            leaving.discard(task)

    async def _leave(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool:
        leaving, task = self._exchange.leaving, trio.lowlevel.current_task()
        leaving.add(task)
        try:
            return await super().__aexit__(exc_type, exc_val, exc_tb)
        except trio.Cancelled:
            if self.status is self.Status.ACTIVE and not self._exchange.parked:
                # It was cancelled while another task used the connection, before it could
                # note its end. psycopg's count of nested transactions is lost.
                self._exchange.close()
            raise
        finally:
            leaving.discard(task)
