"""The example of an overloaded pool: the chart that it draws, and what that shows."""

from __future__ import annotations

import re

import pytest
from trio.testing import MockClock

from overload import Second, chart, main, make_records

from ._programs import run


@pytest.mark.real
async def test_overload_ends_by_itself() -> None:
    """The program prints two charts and no error, and exits with status 0."""
    done = await run("overload.py", "--seconds", "2")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert re.search(r"without queue_target: \d+ served, \d+ refused; median", done.stdout)
    assert re.search(r"with queue_target=0\.05: \d+ served, \d+ refused; median", done.stdout)
    assert len(re.findall(r"^   [12] s  [█#]+ \d\.\d\d s", done.stdout, re.MULTILINE)) >= 3


async def test_what_the_chart_shows(autojump_clock: MockClock) -> None:
    """Without the rule the waits grow with each second; with it they stay short."""
    plain, target = await main(8)
    waits = [it.wait for it in plain.seconds]
    assert waits[:5] == sorted(waits[:5])
    assert min(waits[4:]) > 4
    assert max(it.wait for it in target.seconds[3:]) < 0.15
    served = [sum(len(it.waits) for it in record.seconds) for record in (plain, target)]
    assert served[1] == pytest.approx(8 / 0.1 * 2, abs=10)
    assert sum(it.refused for it in target.seconds) > 100


def test_the_bars() -> None:
    """The longest wait has the longest bar, and no bar is empty."""
    records = make_records(2)
    for record in records:
        record.seconds[:] = [Second([0.5]), Second([2.0], refused=3)]
    records[1].seconds[:] = [Second([0.01]), Second([], refused=9)]
    lines = chart(records, 20, "#").splitlines()
    assert lines[3:5] == ["   1 s  ##### 0.50 s", "   2 s  #################### 2.00 s, 3 refused"]
    assert lines[7:9] == ["   1 s  # 0.01 s", "   2 s  nobody was served, 9 refused"]
