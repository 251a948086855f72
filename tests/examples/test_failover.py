"""The example of a primary and a replica that change roles."""

from __future__ import annotations

import re

import pytest

from failover import Account, Server, report

from ._programs import run


@pytest.mark.real
async def test_no_order_is_lost_when_the_roles_change() -> None:
    """Both servers store orders, each order has one fate, and the pool follows the primary."""
    done = await run("failover.py")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    stored = [int(count) for count in re.findall(r"(\d+) orders stored by db", done.stdout)]
    assert len(stored) == 2
    assert min(stored) > 10
    assert "  0 failed, 0 missing, 0 wrong\n" in done.stdout
    cleaned = re.search(r"(\d+) withdrawn, (\d+) rolled back, (\d+) ended by a close", done.stdout)
    assert cleaned is not None
    withdrawn, rolled_back, closed = map(int, cleaned.groups())
    assert withdrawn == rolled_back + closed
    assert rolled_back > closed
    gap = re.search(r"no order was placed: ([\d.]+) s", done.stdout)
    assert gap is not None
    assert float(gap[1]) < 5


def test_a_replica_forgets_an_open_transaction() -> None:
    """An order that a server has not committed when it is demoted is not stored."""
    server, pending = Server("db1", [], is_primary=True), list[int]()
    assert [server.answer(line, pending) for line in ("BEGIN", "ADD 7")] == ["OK", "OK"]
    server.is_primary = False
    assert server.answer("COMMIT", pending) == "READONLY"
    server.is_primary = True
    assert server.answer("COMMIT", pending) == "OK"
    assert server.orders == []


@pytest.mark.parametrize(
    ("orders", "is_good"),
    [
        ([1], True),
        ([], False),
        ([1, 1], False),
        ([1, 2], False),
    ],
    ids=["stored", "missing", "twice", "withdrawn-but-stored"],
)
async def test_the_report(orders: list[int], is_good: bool) -> None:
    """An order that is missing, stored twice, or stored although it was withdrawn is an error."""
    account = Account(placed={1: 1}, withdrawn={2})
    assert report(account, [("db1", order) for order in orders], 1, 0) is is_good


@pytest.mark.parametrize(
    ("undone", "is_good"),
    [((1, 0), True), ((0, 1), True), ((0, 0), False), ((1, 1), False)],
    ids=["rolled-back", "closed", "neither", "both"],
)
async def test_each_withdrawn_order_is_undone_once(undone: tuple[int, int], is_good: bool) -> None:
    """Its transaction is rolled back, or ends with its session, but not both."""
    account = Account(placed={1: 1}, withdrawn={2})
    assert report(account, [("db1", 1)], *undone) is is_good
