"""`PostgresConnection`: a psycopg connection that runs natively on Trio."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Self, TypeVar

import psycopg
import trio
from psycopg import errors, pq
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import Row, tuple_row

from . import _cancellation_logs, _parameters
from ._drain import command, drain
from ._exchange import Exchange, Rest, raise_cancellation_behind
from ._transaction import PostgresTransaction
from ._waiting import (
    READABLE,
    WAIT_READ,
    finish_cancelling,
    open_pgconn,
    raise_if_closed,
    wait_ready,
    wait_ready_until,
)

if TYPE_CHECKING:
    from psycopg.abc import AdaptContext, ConnParam, PQGen
    from psycopg.rows import AsyncRowFactory

RV = TypeVar("RV")

_ACTIVE = pq.TransactionStatus.ACTIVE

#: Seconds to wait for a cancelled command to end before the server is asked again; then twice
#: as long, and so on.
_FIRST_PATIENCE = 0.05

_cancellation_logs.install()


class PostgresServerCursor(psycopg.AsyncServerCursor[Row]):
    """A server cursor that is closed even if it is cancelled as it closes.

    The server closes it at the end of the transaction. psycopg would warn of an open cursor.
    """

    __slots__ = ()

    async def close(self) -> None:
        """Close the cursor."""
        try:
            await super().close()
        except BaseException:
            await psycopg.AsyncCursor.close(self)  # noqa: ASYNC102 - it does not wait
            raise


class PostgresConnection(psycopg.AsyncConnection[Row]):
    """A `psycopg.AsyncConnection` that waits by Trio in all its operations.

    Its interface is psycopg's. It differs in what a cancellation means: the call returns at
    once, and the server is asked to cancel the command before the connection is used again.
    `PostgresConnector` yields these; `connect` opens one without a pool.
    """

    lock: Exchange  # type: ignore[assignment]

    def __init__(
        self, pgconn: pq.abc.PGconn, row_factory: AsyncRowFactory[Row] | None = None
    ) -> None:
        factory: Any = row_factory or tuple_row
        super().__init__(pgconn, factory)
        self.lock = Exchange(pgconn)
        self.server_cursor_factory = PostgresServerCursor
        self.add_notice_handler(self.lock.farewell.hear)
        self._context: AdaptContext | None = None
        self._own_adapters: AdaptersMap | None = None

    @classmethod
    async def connect(
        cls,
        conninfo: str = "",
        *,
        autocommit: bool = False,
        prepare_threshold: int | None = 5,
        context: AdaptContext | None = None,
        row_factory: AsyncRowFactory[Row] | None = None,
        cursor_factory: type[psycopg.AsyncCursor[Row]] | None = None,
        **kwargs: ConnParam,
    ) -> Self:
        """Open a connection, with the arguments of `psycopg.AsyncConnection.connect`.

        Host names are looked up in threads of this package's own limiter, and their addresses
        are tried in turn. Cancelled, it leaves nothing open.

        Raises:
          psycopg.OperationalError: if that fails; `psycopg.errors.ConnectionTimeout` after
            ``connect_timeout`` seconds, if that is given.
          psycopg.ProgrammingError: for a wrong connection string.
        """
        params = conninfo_to_dict(conninfo, **kwargs)
        deadline = trio.current_time() + _parameters.connect_timeout(params)
        conninfo = make_conninfo("", **await _parameters.look_up_hosts(params))
        conn = cls(await open_pgconn(conninfo, deadline), row_factory)
        conn.set_up(prepare_threshold, context, cursor_factory)
        # The connection is idle, so this neither sends anything nor waits.
        await conn.set_autocommit(autocommit)
        return conn

    def set_up(
        self,
        prepare_threshold: int | None,
        context: AdaptContext | None,
        cursor_factory: type[psycopg.AsyncCursor[Row]] | None,
    ) -> None:
        """Set what psycopg sets as it connects. For `connect` and `PostgresConnector`."""
        self.prepare_threshold = prepare_threshold
        self._context = context
        if cursor_factory:
            self.cursor_factory = cursor_factory

    @property
    def adapters(self) -> AdaptersMap:
        """The adapters of this connection, copied from its context at the first use."""
        if self._own_adapters is None:
            template = self._context.adapters if self._context else psycopg.adapters
            self._own_adapters = AdaptersMap(template)
        return self._own_adapters

    @property
    def broken(self) -> bool:
        """True if the connection is closed, but not by this program."""
        return self.closed and not self.lock.closed_here

    async def close(self) -> None:
        """Close the connection at once. A task that is using it gets an error."""
        self.lock.close()
        await trio.lowlevel.checkpoint()

    async def wait(
        self,
        gen: PQGen[RV],
        interval: float = 0.0,  # noqa: ARG002 - psycopg passes none
        timeout: float | None = None,
    ) -> RV:
        """Run a psycopg generator to its end, waiting by Trio; `interval` is not used.

        Cancelled, it returns at once, but never before the generator has begun: see
        `settle` for what follows.

        Raises:
          psycopg.errors._WaitTimeout: after `timeout` seconds, as psycopg expects.
        """
        exchange = self.lock
        if exchange.unsettled:
            await self._settle_before(gen)
        result: Any = None
        ready = 0
        try:
            state = next(gen)
            if timeout is not None:
                return await self._run_until(gen, state, trio.current_time() + timeout)
            fd = self.pgconn.socket
            while True:
                try:
                    if state == WAIT_READ:  # as nearly always, and with one call less
                        await trio.lowlevel.wait_readable(fd)
                        ready = READABLE
                    else:
                        ready = await wait_ready(fd, state, exchange.turns)
                except BaseException as exc:
                    self._interrupt(gen)
                    raise_if_closed(exc)
                    raise
                state = gen.send(ready)
        except StopIteration as stop:
            result = stop.value
        if not ready and exchange.turns.is_due():
            # The operation is complete, so it must not end as a cancelled one.
            await trio.lowlevel.cancel_shielded_checkpoint()
        exchange.note_result(result)
        return result  # type: ignore[no-any-return]

    async def _settle_before(self, gen: PQGen[Any]) -> None:
        try:
            await self.settle()
        except BaseException:
            self.lock.postpone(gen)
            raise

    async def _run_until(self, gen: PQGen[RV], state: int, deadline: float) -> RV:
        exchange, fd = self.lock, self.pgconn.socket
        while True:
            try:
                ready = await wait_ready_until(fd, state, deadline, exchange.turns)
            except BaseException:
                self._interrupt(gen)
                raise
            try:
                state = gen.send(ready)
            except StopIteration as stop:
                exchange.note_result(stop.value)
                return stop.value  # type: ignore[no-any-return]
            if trio.current_time() >= deadline:
                self._interrupt(gen)
                raise errors._WaitTimeout("wait timeout expired")

    def _interrupt(self, gen: PQGen[Any]) -> None:
        if self.pgconn.pipeline_status:
            # In a pipeline, psycopg notes a statement as prepared before the server has said
            # so. Until the pool cleans the connection, it must not use any.
            self.prepare_threshold = None
            self.lock.distrust_statements()
        self.lock.interrupt(gen)

    async def settle(self) -> None:
        """Finish what cancelled calls have left, so that the connection can be used again.

        Ask the server to cancel the command, drop its answer, and roll back transactions that
        were left meanwhile. Every operation does so before it begins, and the pool does at the
        end of a claim. If it is cancelled, the next call goes on with it.

        Raises:
          psycopg.OperationalError: if that fails, or within a pipeline, which psycopg cannot
            continue after a call in it was cancelled.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        exchange = self.lock
        if exchange.drain_due and exchange.pipelines:
            raise psycopg.OperationalError(
                "a pipeline cannot go on after a call within it was cancelled: leave its block"
            )
        if not self.closed:
            await self._finish_cancelling()
            if exchange.drain_due:
                await self._drop_answer()
        exchange.cancel_due = exchange.drain_due = False
        while exchange.parked:
            # The connection may be lost meanwhile, and nobody waits for the result.
            with suppress(psycopg.Error):
                await self._resume(exchange.parked[0])
            exchange.parked.popleft()
        if exchange.streamed and not self.closed:
            await self._leave_row_mode()
        exchange.unsettled = exchange.streamed = False

    async def _finish_cancelling(self) -> None:
        """Wait until no request to cancel is under way."""
        exchange = self.lock
        while exchange.cancel_requests:
            # If it fails, the server may not know of it. It is asked again.
            with suppress(psycopg.Error):
                await self._finish_request(exchange.cancel_requests[0])

    async def _drop_answer(self) -> None:
        """Read the answer to its end, and ask the server to cancel the command meanwhile.

        A request that arrives before the server has read the command does nothing, so it is
        repeated.
        """
        exchange = self.lock
        rest = Rest(drain(self.pgconn))
        patience = _FIRST_PATIENCE
        while True:
            if exchange.cancel_due and self.pgconn.transaction_status == _ACTIVE:
                await self._finish_request(exchange.begin_cancelling())
            with trio.move_on_after(patience):
                await self._resume(rest)
                return
            patience *= 2

    async def _leave_row_mode(self) -> None:
        """Send an empty command, with which libpq leaves the single-row mode of a stream."""
        self.lock.drain_due = True  # until its answer has come
        await self._resume(Rest(command(self.pgconn, b"")))
        self.lock.drain_due = False

    async def _finish_request(self, request: pq.abc.PGcancelConn) -> None:
        """Wait until a request to cancel was acted on. If cancelled, it stays under way."""
        try:
            await finish_cancelling(request)
        except psycopg.Error:
            self.lock.end_cancelling(request)
            raise
        self.lock.end_cancelling(request)

    async def _resume(self, rest: Rest) -> None:
        """Run what is left of an operation. If cancelled, it can be resumed again."""
        ready = 0
        while True:
            try:
                state = rest.step(ready)
            except StopIteration:
                return
            ready = await wait_ready(self.pgconn.socket, state, self.lock.turns)

    async def cancel_safe(self, *, timeout: float = 30.0) -> None:
        """Ask the server to cancel the present command; it does nothing if there is none.

        Raises:
          psycopg.errors.CancellationTimeout: after `timeout` seconds; 0 means no limit.
          psycopg.OperationalError: if the server cannot be asked.
        """
        if self.closed:
            await trio.lowlevel.checkpoint()
            return
        with trio.move_on_after(timeout or math.inf) as scope:
            await self._finish_request(self.lock.begin_cancelling())
        if scope.cancelled_caught:
            raise errors.CancellationTimeout("cancellation timeout expired")

    def transaction(  # type: ignore[override]
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AbstractAsyncContextManager[psycopg.AsyncTransaction]:
        """Enclose a transaction, or a savepoint within one, as psycopg does."""
        return PostgresTransaction(self.lock, self, savepoint_name, force_rollback)

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[psycopg.AsyncPipeline]:
        """Enclose a pipeline, as psycopg does."""
        exchange = self.lock
        if exchange.unsettled and not exchange.pipelines:
            async with exchange:
                await self.settle()
        exchange.pipelines += 1
        try:
            async with super().pipeline() as pipeline:
                yield pipeline
        except psycopg.OperationalError as exc:
            raise_cancellation_behind(exc)
            raise
        except trio.Cancelled:
            if exchange.is_held:
                # Another task uses the connection, so psycopg could not note the end of the
                # pipeline, and would queue the next commands for ever.
                exchange.close()
            raise
        finally:
            exchange.pipelines -= 1

    async def tpc_begin(self, xid: psycopg.Xid | str) -> None:
        """Begin a two-phase transaction, as psycopg does."""
        self.lock.two_phase = True
        await super().tpc_begin(xid)
