"""`LoggingInstrument`: records for people and machines, and not too many."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from qorb_trio import LoggingInstrument, PoolEvent, PoolTerminatedError
from qorb_trio._events.logging_instrument import LEVELS
from qorb_trio.abc import Instrument

from ..harness import LedgerConnector, backends, fails, open_bench, policy_of

(A,) = backends("a")
LOGGER = "qorb_trio.event"


def told(caplog: pytest.LogCaptureFixture, logger: str = LOGGER) -> list[logging.LogRecord]:
    """The records of one logger."""
    return [record for record in caplog.records if record.name == logger]


def event(time: float, name: str = "connect_failed", **fields: Any) -> PoolEvent:
    """An event."""
    return PoolEvent(name=name, time=time, pool=fields.pop("pool", "p"), **fields)


async def test_a_pool_is_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Each event is a record, with its fields as attributes."""
    caplog.set_level(logging.DEBUG, LOGGER)
    watching = LoggingInstrument(limit=math.inf)
    async with open_bench(policy=policy_of(max_slots=1), instruments=[watching]) as bench:
        bench.script.next("connect", fails(OSError("no such luck")))
        await bench.use(2)
    records = told(caplog)
    assert [getattr(record, "qorb_event", None) for record in records] == [
        name for name, _ in bench.log.events
    ]
    by_name = {record.qorb_event: record for record in records}  # type: ignore[attr-defined]
    done = vars(by_name["claim_done"])
    assert done["qorb_pool"] == "pool"
    assert done["qorb_backend"] == A.name
    assert done["qorb_duration"] >= 0
    assert by_name["claim_done"].levelno == logging.DEBUG
    failed = by_name["connect_failed"]
    assert failed.levelno == logging.WARNING
    assert failed.getMessage().startswith("connect_failed pool=pool slot_id=")
    assert vars(failed)["qorb_error_type"] == "OSError"
    assert vars(failed)["qorb_error"] == "no such luck"
    assert by_name["slot_set_online"].levelno == logging.INFO
    fields = [
        {name: value for name, value in vars(record).items() if name.startswith("qorb_")}
        for record in records
    ]
    assert json.loads(json.dumps(fields)) == fields


async def test_what_was_given_up_is_no_warning(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A claim that is cancelled and a dial that the pool gives up are everyday things."""
    caplog.set_level(logging.INFO, LOGGER)
    connector = LedgerConnector()
    connector.script.always("connect", fails(OSError("down"), after=1000))
    policy = policy_of(max_slots=1)
    instruments = [LoggingInstrument()]
    async with open_bench(
        "ab", policy=policy, connector=connector, instruments=instruments
    ) as bench:
        with trio.move_on_after(5):
            await bench.use()
        bench.resolver.set(backends("c"))
        await bench.settle(0.5)
    reasons = {type(args[-1]) for args in bench.log.of("connect_failed")}
    assert reasons == {ConnectionAbortedError}
    assert {type(args[-1]) for args in bench.log.of("claim_failed")} == {trio.Cancelled}
    assert {vars(record)["qorb_event"] for record in told(caplog)} == {
        "backend_added",
        "backend_removed",
    }


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (ConnectionAbortedError(103, "software caused it"), logging.WARNING),
        (ConnectionAbortedError("given up"), logging.DEBUG),
        (PoolTerminatedError.__new__(PoolTerminatedError), logging.WARNING),
        (None, logging.WARNING),
    ],
)
def test_which_failures_count(
    caplog: pytest.LogCaptureFixture, error: BaseException | None, level: int
) -> None:
    """An abort by the system is a failure, one by the pool is none."""
    caplog.set_level(logging.DEBUG, LOGGER)
    LoggingInstrument().on_event(event(0, error=error))
    assert [record.levelno for record in told(caplog)] == [level]


def test_floods(caplog: pytest.LogCaptureFixture) -> None:
    """At most `limit` events of a kind are logged a second; one record tells of the others."""
    caplog.set_level(logging.DEBUG, LOGGER)
    watching = LoggingInstrument(limit=2)
    for number in range(100):
        watching.on_event(event(10 + number / 1000))
    watching.on_event(event(10.5, "claim_failed"))
    watching.on_event(event(10.6, pool="q"))
    assert [record.getMessage() for record in told(caplog)] == [
        "connect_failed pool=p",
        "connect_failed pool=p",
        "claim_failed pool=p",
        "connect_failed pool=q",
    ]
    caplog.clear()
    watching.on_event(event(11, "claim_start"))  # of another kind: the second is over
    assert [record.getMessage() for record in told(caplog)] == [
        "connect_failed pool=p: 98 more within a second were left out",
        "claim_start pool=p",
    ]
    summary = told(caplog)[0]
    assert summary.levelno == logging.WARNING
    assert vars(summary)["qorb_event"] == "connect_failed"
    assert vars(summary)["qorb_left_out"] == 98
    caplog.clear()
    watching.on_event(event(11.1))
    assert [record.getMessage() for record in told(caplog)] == ["connect_failed pool=p"]


def test_flush(caplog: pytest.LogCaptureFixture) -> None:
    """At the end `flush` tells how many were left out, once."""
    caplog.set_level(logging.DEBUG, LOGGER)
    watching = LoggingInstrument(limit=1)
    for _ in range(5):
        watching.on_event(event(0))
    caplog.clear()
    watching.flush()
    watching.flush()
    assert [vars(record)["qorb_left_out"] for record in told(caplog)] == [4]


def test_the_summary_is_as_loud_as_the_loudest(caplog: pytest.LogCaptureFixture) -> None:
    """The summary of a warning that was left out is a warning."""
    caplog.set_level(logging.DEBUG, LOGGER)
    watching = LoggingInstrument(limit=1)
    watching.on_event(event(0, error=ConnectionAbortedError("given up")))
    watching.on_event(event(0, error=OSError("no")))
    watching.flush()
    assert [record.levelno for record in told(caplog)] == [logging.DEBUG, logging.WARNING]


def test_no_limit(caplog: pytest.LogCaptureFixture) -> None:
    """With ``math.inf`` everything is logged."""
    caplog.set_level(logging.DEBUG, LOGGER)
    watching = LoggingInstrument(limit=math.inf)
    for _ in range(1000):
        watching.on_event(event(0))
    watching.flush()
    assert len(told(caplog)) == 1000


def test_logger_and_levels(caplog: pytest.LogCaptureFixture) -> None:
    """The caller chooses the logger and the levels; events below the level are not counted."""
    logger = logging.getLogger("my.pools")
    caplog.set_level(logging.INFO, "my.pools")
    watching = LoggingInstrument(logger, levels={"claim_done": logging.ERROR}, limit=1)
    for name in ("claim_start", "claim_start", "claim_done", "connect_failed"):
        watching.on_event(event(0, name))
    watching.flush()
    assert [(record.getMessage(), record.levelno) for record in told(caplog, "my.pools")] == [
        ("claim_done pool=p", logging.ERROR),
        ("connect_failed pool=p", logging.WARNING),
    ]


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("connection_stale", logging.DEBUG),
        ("connection_broken", logging.WARNING),
        ("connection_retired", logging.DEBUG),
        ("claim_cut", logging.WARNING),
        ("backend_ejected", logging.WARNING),
        ("backend_restored", logging.INFO),
    ],
)
def test_levels_of_the_life_of_connections(
    caplog: pytest.LogCaptureFixture, name: str, level: int
) -> None:
    """A close by an idle peer and a replacement are routine; a loss or an ejection is not."""
    caplog.set_level(logging.DEBUG, LOGGER)
    LoggingInstrument().on_event(event(0, name, reason="5 failures in a row"))
    (record,) = told(caplog)
    assert record.levelno == level
    assert vars(record)["qorb_reason"] == "5 failures in a row"


def test_a_log_line_cannot_be_forged(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing unprintable gets into a message, the pool's name included (section H)."""
    caplog.set_level(logging.DEBUG, LOGGER)
    watching = LoggingInstrument(limit=1)
    for _ in range(2):
        watching.on_event(event(0, pool="p\n\x1b[8m", error=OSError("a\nb\u202e")))
    watching.flush()
    line, summary = (record.getMessage() for record in told(caplog))
    assert line == r"connect_failed pool=p\n\x1b[8m error_type=OSError error=a\nb\u202e"
    assert summary.startswith(r"connect_failed pool=p\n\x1b[8m: 1 more")


def test_levels_are_of_events() -> None:
    """The built-in levels name events that exist."""
    assert set(LEVELS) <= set(vars(Instrument))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LoggingInstrument("qorb"), "logger"),  # type: ignore[arg-type]
        (lambda: LoggingInstrument(levels={"claim_dne": 10}), "claim_dne"),
        (lambda: LoggingInstrument(levels=["claim_done"]), "levels"),  # type: ignore[arg-type]
        (lambda: LoggingInstrument(limit=0), "limit"),
        (lambda: LoggingInstrument(limit=1.5), "limit"),
    ],
)
def test_wrong_arguments(make: Callable[[], object], message: str) -> None:
    """A wrong argument is an error that names it."""
    with pytest.raises((TypeError, ValueError), match=message):
        make()


async def test_a_logger_that_fails_harms_nobody(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that raises costs the instrument its place, and the pool nothing."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ZeroDivisionError("a bug in a handler")

    logger = logging.getLogger("my.broken")
    logger.addHandler(handler := Broken())
    logger.setLevel(logging.INFO)
    try:
        async with open_bench(instruments=[LoggingInstrument(logger)]) as bench:
            await bench.use()
    finally:
        logger.removeHandler(handler)
    assert [one.exc_info is not None for one in told(caplog, "qorb_trio.instrument")] == [True]
