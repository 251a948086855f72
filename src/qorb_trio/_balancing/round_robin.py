"""`RoundRobin`: claims in turn, by weight, whatever the load."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar, final

import attrs

from .strategy import Candidate

A = TypeVar("A", bound=Candidate)

#: Number of turns that a backend catches up on when it returns from a time without spares.
#: Without a bound, a backend that had no spare for minutes would get all claims for minutes.
CATCH_UP = 8

#: The part of a turn by which newcomers of equal weight are kept apart, at most.
APART = 1e-6


@final
@attrs.frozen
class RoundRobin:
    """Balancer that gives each backend its turns in proportion to its weight.

    It uses stride scheduling (Waldspurger and Weihl, 1995). The memo of a backend is its
    virtual time: the backend with the least memo is chosen, and its memo grows by 1 / weight.
    A newcomer starts at the least memo of the backends it is compared with, or later by a tiny
    random part, so that many pools do not begin with the same backend. A backend that
    returns after a long time without spares catches up on at most 8 turns.
    """

    def choose(
        self,
        candidates: Sequence[Candidate],
        rng: random.Random,
        now: float,  # noqa: ARG002 - the contract's
    ) -> Candidate:
        """Return the candidate with the least memo, and advance that; see `Balancer.choose`."""
        settle(candidates, rng.random)
        return next_turn(candidates)


def settle(candidates: Sequence[Candidate], draw: Callable[[], float]) -> None:
    """Prepare candidates for `next_turn`: admit newcomers, and limit how far any is behind.

    `draw` is for newcomers. Candidates that only `next_turn` changes remain prepared, because
    none of them falls behind by more than the longest stride.
    """
    memos = [candidate.memo for candidate in candidates]
    if None in memos:
        memos = _admit(candidates, draw)
    if max(memos) - min(memos) > CATCH_UP:
        _limit_lag(candidates)


def next_turn(candidates: Sequence[A]) -> A:
    """Return the candidate with the least memo, and advance that."""
    # A loop, because it takes a third of the time of a list with its min() and index().
    chosen = candidates[0]
    least = chosen.memo
    for candidate in candidates:
        memo = candidate.memo
        if memo < least:
            least = memo
            chosen = candidate
    chosen.memo = least + 1 / chosen.weight
    return chosen


def _admit(candidates: Sequence[Candidate], draw: Callable[[], float]) -> list[float]:
    """Give each newcomer a little more than the least memo of the others; return all memos."""
    start: float = min((it.memo for it in candidates if it.memo is not None), default=0.0)
    for candidate in candidates:
        if candidate.memo is None:
            candidate.memo = start + APART * draw()
    return [candidate.memo for candidate in candidates]


def _limit_lag(candidates: Sequence[Candidate]) -> None:
    """Move up the candidates that are too far behind the first one.

    Memos of candidates that are always there differ by at most the longest stride.
    """
    longest = 1 / min(candidate.weight for candidate in candidates)
    limit: float = max(it.memo for it in candidates) - CATCH_UP * longest
    for candidate in candidates:
        candidate.memo = max(candidate.memo, limit)


RoundRobin.__module__ = "qorb_trio"  # where users import it from
