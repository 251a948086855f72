"""Why a claim is refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import attrs
import pytest

from qorb_trio import (
    AllClaimsUsedError,
    Backend,
    BackendStats,
    ClaimError,
    ClaimTimeoutError,
    NoBackendsError,
    NoBackendsOnlineError,
    PoolOverloadedError,
    PoolStats,
    PoolTerminatedError,
)
from qorb_trio._claims.failure import (
    full_queue_failure,
    overload_failure,
    termination_failure,
    timeout_failure,
)

ERROR = OSError("refused")
NOTHING = BackendStats(
    backend=Backend(("a", 1)),
    online=False,
    connecting=0,
    unclaimed=0,
    checking=0,
    claimed=0,
    closing=0,
    wanted=0,
    total_claims=0,
    failures=0,
    last_error=None,
)
EMPTY = PoolStats(name="db", claims=3, waiting=2, slots=0, departed=0, backends={})


def stats_of(departed: int = 0, **counts: int) -> PoolStats:
    """Statistics of a pool with two backends; the first one has these counts."""
    first = attrs.evolve(NOTHING, **counts)  # type: ignore[arg-type]  # checked by attrs
    return attrs.evolve(EMPTY, departed=departed, backends={"a:1": first, "b:1": NOTHING})


@pytest.mark.parametrize(
    ("stats", "kind", "cause", "words"),
    [
        (EMPTY, NoBackendsError, None, "knows no backend"),
        (stats_of(), NoBackendsOnlineError, ERROR, "none of 2 backends"),
        (stats_of(connecting=3), NoBackendsOnlineError, ERROR, "refused"),
        (stats_of(departed=3), NoBackendsOnlineError, ERROR, "none of 2 backends"),
        (stats_of(departed=4), AllClaimsUsedError, None, "all 4 connections"),
        (stats_of(claimed=3), AllClaimsUsedError, None, "all 3 connections"),
        (stats_of(checking=1), AllClaimsUsedError, None, "2 claimants wait"),
        (stats_of(claimed=1, unclaimed=1), AllClaimsUsedError, None, "in use"),
        (stats_of(claimed=1), AllClaimsUsedError, None, "the only connection is in use"),
        (
            attrs.evolve(stats_of(claimed=1), waiting=1),
            AllClaimsUsedError,
            None,
            "1 claimant waits",
        ),
        (attrs.evolve(EMPTY, backends={"a:1": NOTHING}), NoBackendsOnlineError, ERROR, "the only"),
        (stats_of(claimed=1, departed=2), AllClaimsUsedError, None, "all 3 connections"),
        (stats_of(unclaimed=1), ClaimTimeoutError, ERROR, "could be set up"),
    ],
)
def test_why_there_was_no_connection(
    stats: PoolStats, kind: type[ClaimError], cause: Exception | None, words: str
) -> None:
    """The error's class tells the reason; the error names the pool, and has the last failure."""
    error = timeout_failure(stats, 4, ERROR).error()
    assert type(error) is kind
    assert error.__cause__ is cause
    assert str(error).startswith("pool 'db': no connection in time")
    assert words in str(error)
    assert (error.pool, error.stats) == ("db", stats)


def test_whose_error_it_was() -> None:
    """The last error is told with the backend that it is of, where there still is one."""
    failed = attrs.evolve(NOTHING, last_error=ERROR)
    stats = attrs.evolve(EMPTY, backends={"b:1": NOTHING, "a:1": failed})
    assert "last error: a:1: OSError" in str(timeout_failure(stats, 4, ERROR).error())
    assert "no connect has ended yet" in str(timeout_failure(stats, 4, None).error())


def test_why_there_is_no_backend() -> None:
    """The resolver's trouble is told if there is no backend, and only then."""
    assert "no backend; timeout" in str(timeout_failure(EMPTY, 4, None, trouble="timeout").error())
    assert "timeout" not in str(timeout_failure(stats_of(), 4, None, trouble="timeout").error())


class Unspeakable(Exception):
    """An error that cannot be shown."""

    def __repr__(self) -> str:
        raise self


def test_an_error_that_cannot_be_shown() -> None:
    """An exception whose representation fails is shown by the name of its class."""
    error = timeout_failure(stats_of(), 4, Unspeakable()).error()
    assert "last error: Unspeakable" in str(error)


def test_the_end() -> None:
    """A pool that ends says so, whatever it has."""
    error = termination_failure(stats_of(claimed=1)).error()
    assert type(error) is PoolTerminatedError
    assert "'db'" in str(error)
    assert error.__cause__ is None


@pytest.mark.parametrize(
    ("waiting", "words"), [(0, "0 claimants wait"), (1, "1 claimant waits"), (2, "2 claimants")]
)
def test_a_full_queue(waiting: int, words: str) -> None:
    """A claim that is refused by `max_waiting` is told how many wait."""
    stats = attrs.evolve(stats_of(claimed=1), waiting=waiting)
    error = full_queue_failure(stats).error()
    assert type(error) is PoolOverloadedError
    assert words in str(error)
    assert "pool 'db' is overloaded" in str(error)
    assert "max_waiting" in str(error)
    assert error.stats is stats


def test_an_overloaded_pool() -> None:
    """A claim that is refused by `queue_target` is told why."""
    error = overload_failure(EMPTY).error()
    assert type(error) is PoolOverloadedError
    assert str(error).startswith("pool 'db' is overloaded: refused after a wait")
    assert "queue_target" in str(error)


def test_each_claimant_gets_its_own_error() -> None:
    """Errors of one refusal are not shared, since each is raised in a task of its own."""
    refusal = timeout_failure(stats_of(), 4, ERROR)
    assert refusal.error() is not refusal.error()


@pytest.mark.parametrize(
    ("stats", "kind"),
    [
        (EMPTY, NoBackendsError),
        (stats_of(), ClaimTimeoutError),
        (stats_of(claimed=1), AllClaimsUsedError),
        (stats_of(unclaimed=1), ClaimTimeoutError),
    ],
)
def test_a_cause_of_its_own(stats: PoolStats, kind: type[ClaimError]) -> None:
    """The failure of the claimant's own connection is the cause, and shows that one was online."""
    mine = ValueError("on_acquire")
    error = timeout_failure(stats, 4, ERROR).error(mine)
    assert type(error) is kind
    assert error.__cause__ is mine


@pytest.mark.parametrize("there_and_back", [copy.copy, lambda it: pickle.loads(pickle.dumps(it))])
@pytest.mark.parametrize(
    "kind",
    [
        ClaimError,
        ClaimTimeoutError,
        NoBackendsError,
        NoBackendsOnlineError,
        AllClaimsUsedError,
        PoolOverloadedError,
        PoolTerminatedError,
    ],
)
def test_errors_survive_a_journey(
    kind: type[ClaimError], there_and_back: Callable[[ClaimError], ClaimError]
) -> None:
    """Every error can be copied and pickled, with its statistics."""
    error = there_and_back(kind("no luck", pool="db", stats=stats_of(claimed=2)))
    assert type(error) is kind
    assert (str(error), error.pool) == ("no luck", "db")
    assert error.stats == stats_of(claimed=2)
