"""The highest demand since the last rebalance."""

from __future__ import annotations

from qorb_trio._planning.high_watermark import HighWatermark


def test_the_highest_demand_is_retained() -> None:
    """A rebalance retains the highest demand since the one before."""
    mark = HighWatermark()
    for demand in (3, 9, 4):
        mark.record(demand)
    mark.begin_rebalance()
    assert mark.retained == 9
    mark.record(4)
    mark.begin_rebalance()
    assert mark.retained == 4


def test_demand_during_a_rebalance_counts() -> None:
    """Demand that rises while a rebalance is under way is retained, too."""
    mark = HighWatermark()
    mark.record(3)
    mark.begin_rebalance()
    mark.record(8)
    mark.record(2)
    assert mark.retained == 8
    mark.begin_rebalance()
    assert mark.retained == 8
    mark.begin_rebalance()
    assert mark.retained == 0


def test_nothing_is_retained_at_first() -> None:
    """Without any plan there was no demand."""
    mark = HighWatermark()
    mark.begin_rebalance()
    assert mark.retained == 0
