"""What is known of a backend's reliability."""

from __future__ import annotations

import random

import pytest

from qorb_trio import SetConfig
from qorb_trio._health.failure_detector import LONGEST_PROBATION, MOST_DOUBLINGS, TrackRecord


def a_record(**config: float) -> TrackRecord:
    """A record without jitter, whose first delay is a second."""
    numbers = {"min_connection_backoff": 1.0, "max_connection_backoff": 8.0, "spread": 0.0}
    return TrackRecord(SetConfig(**(numbers | config)), random.Random(0))  # type: ignore[arg-type]


def test_nothing_is_known_at_first() -> None:
    """A backend is innocent until it fails, and may be dialled at once."""
    record = a_record()
    assert not record.failing
    assert record.retry_at == float("-inf")
    assert record.last_error is None
    assert record.failures(100) == 0


def test_failures_that_began_together_are_one() -> None:
    """Of the dials of one epoch only the first failure counts, though all are noted."""
    record = a_record()
    errors = [OSError(str(number)) for number in range(8)]
    assert [record.failed(error, 0, 10) for error in errors] == [True] + [False] * 7
    assert record.failing
    assert (record.streak, record.epoch, record.retry_at) == (1, 1, 11)
    assert record.last_error is errors[-1]
    assert record.failures(10) == 8


def test_failures_in_a_row_double_the_wait() -> None:
    """Each dial that was begun after the last failure, and fails, doubles the back-off."""
    record = a_record()
    waits = []
    for now in range(0, 600, 100):
        assert record.failed(OSError(), record.epoch, now)
        waits.append(record.retry_at - now)
    assert waits == [1, 2, 4, 8, 8, 8]


def test_old_evidence_proves_nothing() -> None:
    """A connection from before the last failure neither clears nor blames its backend."""
    record = a_record()
    record.failed(OSError(), 0, 0)
    assert not record.proved(0)
    assert record.streak == 1
    assert not record.failed(OSError(), 0, 5)
    assert record.streak == 1
    assert record.proved(1)
    assert record.streak == 0
    assert not record.proved(1), "there is no streak to end"
    assert not record.failed(OSError(), 0, 6), "it has been proved since"
    assert record.failed(OSError(), 1, 7)
    assert (record.streak, record.retry_at) == (1, 8)


def test_a_failed_close_is_only_noted() -> None:
    """What says nothing about the backend counts, but does not make it fail."""
    record = a_record()
    error = OSError()
    record.noted(error, 3)
    assert (record.last_error, record.last_error_at) == (error, 3)
    assert record.failures(3) == 1
    assert not record.failing


def test_the_error_of_a_connect_is_kept_apart() -> None:
    """It outlasts what fails besides, and is forgotten when the backend works again."""
    record = a_record()
    refused = OSError()
    record.refused(refused, 3)
    record.failed(refused, 0, 3)
    record.noted(OSError(), 4)
    assert (record.connect_error, record.connect_error_at) == (refused, 3)
    assert record.proved(1)
    assert record.connect_error is None


def test_a_dial_given_up_leaves_no_error() -> None:
    """A dial that was given up is evidence, but no failure that anybody saw."""
    record = a_record()
    assert record.gave_up(0, 2)
    assert record.failing
    assert record.last_error is None
    assert record.failures(2) == 0


@pytest.mark.parametrize("streak", [0, 1, 3, MOST_DOUBLINGS, 100])
def test_patience_grows_with_each_failure(streak: int) -> None:
    """A dial may take twice as long after each failure, but not without end."""
    record = a_record()
    for now in range(streak):
        record.gave_up(record.epoch, now)
    assert record.patience(1.5) == 1.5 * 2 ** min(streak, MOST_DOUBLINGS)


@pytest.mark.parametrize(("backoff", "wait"), [(0.25, 0.25), (1.0, 1.0), (4.0, LONGEST_PROBATION)])
def test_probation(backoff: float, wait: float) -> None:
    """A probe has to last as long as the back-off, but not longer than a second; until
    then there is no other."""
    record = a_record(min_connection_backoff=backoff)
    record.failed(OSError(), 0, 0)
    assert record.probation(50) == wait
    assert record.retry_at == 50 + wait
    assert record.failing, "to connect proves nothing"


def test_one_proof_ends_a_long_streak() -> None:
    """However often a backend has failed, one connection that proves itself ends it."""
    record = a_record()
    for now in range(3):
        record.gave_up(record.epoch, now)
    assert record.proved(record.epoch)
    assert not record.failing
    assert record.failed(OSError(), record.epoch, 100)
    assert record.retry_at == 101, "the back-off begins anew"


@pytest.mark.parametrize("end", ["proved", "gave_up", "probation_undecided"])
def test_a_probation_ends(end: str) -> None:
    """When what was on probation has proved itself, failed or gone, others may be probed."""
    record = a_record()
    record.failed(OSError(), 0, 0)
    record.probation(50)
    assert record.on_probation
    if end == "proved":
        record.proved(record.epoch)
    elif end == "gave_up":
        record.gave_up(record.epoch, 51)
    else:
        record.probation_undecided()
    assert not record.on_probation
