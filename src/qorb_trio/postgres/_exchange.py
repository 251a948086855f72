"""The turn to use a connection, and what a cancelled call leaves to be done on it.

A call that is cancelled in the middle of an exchange returns at once. Before the connection is
used again, by the same claimant or by the pool on behalf of the next, the server is asked to
cancel the command, and the rest of its answer is dropped. Nothing new is sent on behalf of a
cancelled call, with one exception: a transaction block that was left is ended. psycopg counts
nested transactions, so its generators that enter and leave one always run to their ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from types import TracebackType
from typing import Any, Final, TypeAlias, final

import psycopg
import trio
from psycopg import pq

from ._farewell import Farewell
from ._waiting import Turns

#: A psycopg operation whose result nobody waits for any longer.
Unfinished: TypeAlias = Generator[Any, Any, Any]

#: Number of cancelled commands after which the prepared statements are dropped. psycopg loses
#: sight of a statement whose first execution was cancelled, and the server would keep it.
_MAX_INTERRUPTIONS: Final = 100

#: The results of a stream.
_STREAMED: Final = {pq.ExecStatus.SINGLE_TUPLE, pq.ExecStatus.TUPLES_CHUNK}

_ACTIVE = pq.TransactionStatus.ACTIVE
_IDLE = pq.TransactionStatus.IDLE


@final
class Exchange:
    """The lock of one connection, and the state of the exchange that goes on under it.

    As a lock it differs from `trio.Lock` in that an uncontended acquisition is no checkpoint:
    a cancellation before psycopg's generator has begun would lose count of transactions.
    """

    __slots__ = (
        "_lot",
        "_pgconn",
        "cancel_due",
        "cancel_requests",
        "closed_here",
        "drain_due",
        "farewell",
        "interruptions",
        "is_held",
        "leaving",
        "parked",
        "pipelines",
        "settings",
        "streamed",
        "turns",
        "two_phase",
        "unsettled",
    )

    def __init__(self, pgconn: pq.abc.PGconn) -> None:
        self._pgconn = pgconn
        self._lot = trio.lowlevel.ParkingLot()
        #: The tasks that are entering or leaving a transaction.
        self.leaving: set[trio.lowlevel.Task] = set()
        self.farewell: Farewell = Farewell()
        self.turns: Turns = Turns()
        self.is_held: bool = False
        #: True if there is anything that `PostgresConnection.settle` must do.
        self.unsettled: bool = False
        #: Requests to cancel that were sent, but not yet acted on. Until they are, they could
        #: hit the next command.
        self.cancel_requests: list[pq.abc.PGcancelConn] = []
        #: True if the server may still be busy with a command that was cancelled here.
        self.cancel_due: bool = False
        #: True if a part of an answer is still to be read and dropped.
        self.drain_due: bool = False
        #: Transactions that were left without waiting: the generators that end them, in order.
        self.parked: deque[Rest] = deque()
        #: Number of commands that were cancelled since the prepared statements were dropped.
        self.interruptions: int = 0
        #: Number of `pipeline()` blocks that are entered.
        self.pipelines: int = 0
        #: True if libpq may still be in single-row mode. It ends only with the next command
        #: outside a pipeline, and makes a mess of the first command of a pipeline.
        self.streamed: bool = False
        #: True if a two-phase transaction was begun: psycopg keeps a record of it.
        self.two_phase: bool = False
        #: True if this program has closed the connection.
        self.closed_here: bool = False
        #: The settings to which the connection returns between two claims.
        self.settings: tuple[object, ...] = ()

    # The lock.

    def locked(self) -> bool:
        """Return True if a task is using the connection."""
        return self.is_held

    async def __aenter__(self) -> None:
        if self.is_held:
            await self._lot.park()  # the lock is handed over, and stays held
        self.is_held = True

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pgconn = self._pgconn
        if pgconn.transaction_status == _ACTIVE and not pgconn.pipeline_status and not self.parked:
            # Only an operation that was cut off ends in the middle of an exchange.
            self._note_interruption()
        if self.streamed:
            self.unsettled = True
        if self._lot:
            self._lot.unpark()
        else:
            self.is_held = False
        if exc is not None:
            raise_cancellation_behind(exc)

    # What calls leave.

    def note_result(self, result: object) -> None:
        """Look at what a call returns: after the rows of a stream there is more to be done."""
        if result is not None and getattr(result, "status", None) in _STREAMED:
            self.streamed = True

    def interrupt(self, gen: Unfinished) -> None:
        """Deal with a generator that has begun, and whose call was cancelled."""
        pgconn = self._pgconn
        busy = pgconn.transaction_status == _ACTIVE or pgconn.pipeline_status
        if busy and self._is_leaving() and not pgconn.pipeline_status:
            self._park(Rest(gen, has_begun=True))
            return
        if busy:
            self._note_interruption()
        end_generator(gen)

    def postpone(self, gen: Unfinished) -> None:
        """Deal with a generator that could not begin, because earlier calls left work."""
        if self._is_leaving():
            self._park(Rest(gen))
        else:
            gen.close()

    def _park(self, rest: Rest) -> None:
        self.unsettled = True
        self.parked.append(rest)

    def _is_leaving(self) -> bool:
        return trio.lowlevel.current_task() in self.leaving

    def _note_interruption(self) -> None:
        if not self.drain_due:  # else it is the same exchange, which was noted before
            self.interruptions += 1
        self.unsettled = self.cancel_due = self.drain_due = self.streamed = True

    @property
    def forget_due(self) -> bool:
        """True if the prepared statements must be dropped before the next claim."""
        return self.interruptions >= _MAX_INTERRUPTIONS

    def distrust_statements(self) -> None:
        """Note that psycopg's record of prepared statements is wrong."""
        self.interruptions = _MAX_INTERRUPTIONS

    # Requests to cancel.

    def begin_cancelling(self) -> pq.abc.PGcancelConn:
        """Begin to ask the server to cancel the present command."""
        request = self._pgconn.cancel_conn()
        self.cancel_requests.append(request)
        self.unsettled = True
        request.start()
        return request

    def end_cancelling(self, request: pq.abc.PGcancelConn) -> None:
        """Forget a request that was acted on, or that failed."""
        request.finish()
        if request in self.cancel_requests:  # else the connection was closed meanwhile
            self.cancel_requests.remove(request)
        self.unsettled = bool(
            self.cancel_requests or self.drain_due or self.parked or self.streamed
        )

    def is_idle(self) -> bool:
        """Return True if the connection is between two exchanges, outside a transaction."""
        pgconn = self._pgconn
        return (
            pgconn.transaction_status == _IDLE
            and not pgconn.pipeline_status
            and not self.is_held
            and not self.unsettled
        )

    def close(self) -> None:
        """Close the connection at once. A task that waits for its socket gets an error."""
        self.closed_here = True
        if self._pgconn.status != pq.ConnStatus.BAD:
            trio.lowlevel.notify_closing(self._pgconn.socket)
        self._pgconn.finish()
        while self.cancel_requests:
            request = self.cancel_requests.pop()
            trio.lowlevel.notify_closing(request.socket)
            request.finish()
        while self.parked:
            self.parked.popleft().end()


@final
class Rest:
    """The rest of a psycopg operation: a generator that is run later, perhaps in parts."""

    __slots__ = ("_gen", "_has_begun")

    def __init__(self, gen: Unfinished, *, has_begun: bool = False) -> None:
        self._gen = gen
        self._has_begun = has_begun

    def step(self, ready: int) -> int:
        """Continue with what is ready, 0 for nothing yet, and return what it waits for next.

        Raises:
          StopIteration: it has ended.
        """
        # `None` is not enough for psycopg's compiled generators.
        state: int = self._gen.send(ready) if self._has_begun else next(self._gen)
        self._has_begun = True
        return state

    def end(self) -> None:
        """Close it."""
        end_generator(self._gen)


def raise_cancellation_behind(exc: BaseException) -> None:
    """Raise the cancellation whose place an error of psycopg's clean-up has taken, if any.

    psycopg tries to leave the pipeline of a cancelled call, which is busy, and raises that.
    """
    if isinstance(exc, psycopg.OperationalError) and isinstance(exc.__context__, trio.Cancelled):
        raise exc.__context__


def end_generator(gen: Unfinished) -> None:
    """Close a generator that may wait within a `finally`, as that of a pipeline does."""
    try:
        gen.close()
    except (psycopg.Error, RuntimeError):  # "generator ignored GeneratorExit"
        gen.close()
