"""`Targets`: what the last plan says of the pool as a whole."""

from __future__ import annotations

from typing import Final, final

#: More claims than there can be. Python compares integers below 2**30 faster than others, and
#: much faster than an integer with infinity.
ALL_CLAIMS: Final = 2**30 - 1


@final
class Targets:
    """The numbers that the last plan set, for those who decide between two plans.

    Written by the rebalancer; `take_reclaim` and `request_rebalance` are for the others.
    """

    __slots__ = (
        "covered_claims",
        "failing",
        "has_backlog",
        "is_rebalancing",
        "may_cover_more",
        "reclaim",
        "size",
    )

    def __init__(self) -> None:
        #: The number of claims, held and waiting, that the plan provides for.
        self.covered_claims: int = 0
        #: The number of connections that are enough.
        self.size: int = 0
        #: True if the next returned connection of a reclaimable slot set must be closed,
        #: because another backend needs its place.
        self.reclaim: bool = False
        #: The number of backends that are known to fail.
        self.failing: int = 0
        #: True if dials were put off, so that a plan is needed as soon as one ends.
        self.has_backlog: bool = False
        #: True if a plan may find a connection for the next claimant that has to wait, however
        #: many claims are covered.
        self.may_cover_more: bool = False
        #: True from a rebalance's beginning until nothing is left to be put right. That may
        #: take several plans, since a working connection is closed only when its replacement
        #: works.
        self.is_rebalancing: bool = False

    def publish(
        self,
        *,
        claims: int,
        is_saturated: bool,
        size: int,
        reclaim: bool,
        has_backlog: bool,
        may_cover_more: bool,
        failing: int,
    ) -> None:
        """Adopt a plan that was made for that many claims."""
        self.failing = failing
        self.has_backlog = has_backlog
        self.may_cover_more = may_cover_more
        self.covered_claims = ALL_CLAIMS if is_saturated else claims
        self.size = size
        self.reclaim = reclaim

    def take_reclaim(self) -> None:
        """Note that a connection is being closed to make room: one is enough."""
        self.reclaim = False

    def request_rebalance(self) -> None:
        """Have the next plans close surplus too, until all is settled."""
        self.is_rebalancing = True

    def end_rebalance(self) -> None:
        """Note that nothing is left to be put right."""
        self.is_rebalancing = False
