"""A pool takes the same course each time, wherever its objects lie in memory."""

from __future__ import annotations

from ..harness import LedgerConnection, LedgerConnector, backends, open_bench, policy_of, run
from ..harness.ledger import Dial


async def order_of_closing() -> list[int]:
    """Return the order in which a pool closes connections still in use, departed ones too."""
    connector, order = LedgerConnector(), list[int]()

    def noted(what: str, whom: LedgerConnection | Dial) -> None:
        if what == "disconnect begins" and isinstance(whom, LedgerConnection):
            order.append(whom.number)

    connector.ledger.on_note = noted
    policy = policy_of(max_slots=20, spares_wanted=20, max_count=4, drain_timeout=0)
    async with open_bench("abcde", connector=connector, policy=policy) as bench:
        await bench.pool.wait_ready(20)
        claims = [await bench.acquire() for _ in range(20)]
        bench.resolver.set(backends("ab"))
        await bench.settle()
    for claim in claims:
        bench.release(claim)
    return order


def test_connections_are_closed_in_the_same_order() -> None:
    """Nothing depends on the address of an object, so that a seed replays a whole run."""
    courses, elsewhere = [], []
    for size in range(10):
        elsewhere.append([object() for _ in range(size * 7)])
        courses.append(run(order_of_closing))
    assert all(course == courses[0] for course in courses)
