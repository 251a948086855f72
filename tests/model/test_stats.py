"""`PoolStats` and `BackendStats` as values: defaults, copies, pickles."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from qorb_trio import AllClaimsUsedError, Backend, BackendStats, ClaimError, PoolStats

A = Backend(("a", 1))


def of_a_backend(**fields: Any) -> BackendStats:
    """Statistics of a backend with nothing, but for the given fields."""
    counts = ("connecting", "unclaimed", "checking", "claimed", "closing", "wanted")
    numbers = dict.fromkeys([*counts, "total_claims", "failures"], 0)
    return BackendStats(backend=A, online=True, **(numbers | {"last_error": None} | fields))


def of_a_pool(**fields: Any) -> PoolStats:
    """Statistics of a pool with one backend."""
    numbers = dict.fromkeys(["claims", "waiting", "slots", "departed"], 0)
    backends = {"a": of_a_backend(last_error=fields.pop("last_error", None))}
    return PoolStats(name="p", backends=backends, **(numbers | fields))


class NeedsMoreError(Exception):
    """Pickles, and cannot be unpickled: the constructor wants more than `args` has."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class UglyError(Exception):
    """Cannot be pickled, and cannot even be shown."""

    def __reduce__(self) -> str:
        raise ZeroDivisionError

    def __str__(self) -> str:
        raise ZeroDivisionError

    __repr__ = __str__


class Locked:
    """A resolver's snapshot that cannot be pickled."""

    def __reduce__(self) -> str:
        raise TypeError("locked")

    def __repr__(self) -> str:
        return "<locked>"


def local_error() -> Exception:
    """An error whose class no other process can import."""

    class LocalError(Exception):
        pass

    return LocalError("of a function")


def test_what_is_new_has_defaults() -> None:
    """Statistics made without the newer fields have nothing there, and know their backends."""
    stats = of_a_pool()
    assert (stats.shed, stats.known) == (0, 1)
    assert of_a_pool(known=5000, shed=3).known == 5000
    one = stats.backends["a"]
    assert (one.failed_claims, one.stale, one.retiring, one.ejected_until) == (0, 0, 0, None)


def test_a_picklable_error_is_pickled_as_it_is() -> None:
    """An exception that survives pickling keeps its type and arguments."""
    stats = pickle.loads(pickle.dumps(of_a_pool(last_error=OSError(111, "refused"))))
    error = stats.backends["a"].last_error
    assert (type(error), error.args) == (ConnectionRefusedError, (111, "refused"))
    assert stats.backends["a"].backend == A


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NeedsMoreError("no luck", 5), "NeedsMoreError: no luck"),
        (local_error(), "local_error.<locals>.LocalError: of a function"),
        (OSError("held", lambda: None), "builtins.OSError: [Errno held] <function"),
        (UglyError(), "UglyError: <UglyError that cannot be shown: ZeroDivisionError>"),
    ],
)
def test_j_an_error_that_cannot_be_pickled_does_not_spoil_a_claim_error(
    error: Exception, expected: str
) -> None:
    """A stand-in with the type's name and the text takes the error's place in the pickle."""
    claim_error = AllClaimsUsedError("all used", pool="p", stats=of_a_pool(last_error=error))
    again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(claim_error))))
    assert type(again) is AllClaimsUsedError
    assert (str(again), again.pool, again.stats.known) == ("all used", "p", 1)
    assert expected in str(again.stats.backends["a"].last_error)
    assert claim_error.stats.backends["a"].last_error is error


def test_j_a_resolution_that_cannot_be_pickled_does_not_spoil_a_claim_error() -> None:
    """A resolver's snapshot that cannot be pickled is replaced by its repr."""
    error = ClaimError("no", pool="p", stats=of_a_pool(resolution=Locked()))
    assert pickle.loads(pickle.dumps(error)).stats.resolution == "<locked>"
    error = ClaimError("no", pool="p", stats=of_a_pool(resolution={"trouble": "dead"}))
    assert pickle.loads(pickle.dumps(error)).stats.resolution == {"trouble": "dead"}


@pytest.mark.parametrize("make_copy", [copy.copy, copy.deepcopy])
def test_a_copy_is_the_snapshot_itself(make_copy: Any) -> None:
    """Copies keep an error that cannot be pickled, since nothing in a snapshot changes."""
    stats = of_a_pool(last_error=NeedsMoreError("no luck", 5), resolution=Locked())
    assert make_copy(stats) is stats
    assert make_copy(stats.backends["a"]) is stats.backends["a"]
