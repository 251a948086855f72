"""docs/observability.md says what is so."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from trio.testing import MockClock

from qorb_trio import ClaimTimeoutError, Instrument, PoolOverloadedError
from qorb_trio._events.event import EVENT_SPECS
from qorb_trio.opentelemetry import instrument
from qorb_trio.opentelemetry._meters import meters_of
from qorb_trio.opentelemetry._pool_meter import PoolMeter

from ..harness import Bench, fails, open_bench
from ..metrics.kit import Reader, reading

PAGE = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()


def table(marker: str) -> list[list[str]]:
    """The rows of the table that comes after a comment, without its head."""
    _, _, rest = PAGE.partition(f"<!-- {marker}")
    rows = re.search(r"(^\|.*\n)+", rest, re.MULTILINE)
    assert rows is not None
    lines = rows.group().splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_of_events() -> None:
    """The page lists exactly the events that there are, with their arguments, in order."""
    rows = table("events:")
    assert [name.strip("`") for name, *_ in rows] == list(EVENT_SPECS)
    for name, arguments, when, duration in rows:
        method = name.strip("`")
        _, _, *parameters = inspect.signature(getattr(Instrument, method)).parameters
        assert re.findall(r"`(\w+)`", arguments) == parameters
        assert when
        spec = EVENT_SPECS[method]
        assert bool(duration) == bool(spec.ends or spec.within), name
        span = spec.ends or spec.within
        starts = [event for event, other in EVENT_SPECS.items() if span and other.begins == span]
        assert not duration or method in starts or f"`{starts[0]}`" in duration


def count_the_rest(bench: Bench, reader: Reader) -> None:
    """Count one of each event that the run of the test does not have."""
    (backend,) = (it.backend for it in bench.stats().backends.values())
    meter = PoolMeter(bench.pool, meters_of(reader.provider), 100)
    meter.connection_stale("pool", 1, backend, OSError())
    meter.connection_broken("pool", 1, backend, OSError())
    meter.connection_retired("pool", 1, backend, "uses")
    meter.claim_cut("pool", 1, backend)
    meter.claim_failed("pool", 1, PoolOverloadedError("", pool="", stats=bench.stats()))
    meter.backend_ejected("pool", backend, "", 1.0)
    meter.backend_restored("pool", backend)


async def test_the_table_of_metrics(autojump_clock: MockClock) -> None:
    """The page lists exactly the metrics that a pool has, with their units."""
    with reading() as reader:
        async with open_bench() as bench:
            with instrument(bench.pool, reader.provider):
                bench.script.next("connect", fails(OSError))
                with pytest.raises(ClaimTimeoutError):
                    await bench.use(timeout=0)
                await bench.use()
                count_the_rest(bench, reader)
                found = {name: metric.unit for name, metric in reader.metrics().items()}
    rows = {name.strip("`"): unit.strip("`") for name, _, unit, *_ in table("metrics:")}
    assert rows == found
