"""`FailureDetector`: is a backend known to fail, and when may it be tried again."""

from __future__ import annotations

import gc
import random
import weakref

import pytest

from qorb_trio import IneligibleBackendError, SetConfig
from qorb_trio._health.backoff import jittered_delay
from qorb_trio._health.detector import MAX_DOUBLINGS, MAX_HALF_OPEN, NEVER, FailureDetector


class Least(random.Random):
    """Draws always the least number."""

    def random(self) -> float:
        """The least."""
        return 0.0


def a_detector(rng: random.Random | None = None, **config: float) -> FailureDetector:
    """A detector without randomness, whose first delay is a second."""
    numbers = {"min_connection_backoff": 1.0, "max_connection_backoff": 8.0, "spread": 0.0}
    numbers |= config
    return FailureDetector(SetConfig(**numbers), rng or Least())  # type: ignore[arg-type]


def failing(count: int = 1, **config: float) -> FailureDetector:
    """A detector that has recorded failures in a row, the last at the time 0."""
    detector = a_detector(None, **config)
    for number in range(count):
        assert detector.record_failure(OSError(number), detector.health_generation, 0)
    return detector


def errors_of(detector: FailureDetector) -> tuple[Exception | None, Exception | None]:
    """The errors that a detector keeps."""
    return detector.last_error, detector.connect_error


def test_nothing_is_known_at_first() -> None:
    """A backend is innocent until it fails, and may be dialled at once."""
    detector = a_detector()
    assert not detector.is_failing
    assert not detector.is_half_open
    assert detector.failing_since is None
    assert detector.retry_at == NEVER
    assert detector.last_error is detector.connect_error is None
    assert detector.recent_failures(100) == 0


def test_failures_that_began_together_are_one() -> None:
    """Of the dials of one generation only the first failure counts, though all are recorded."""
    detector = a_detector()
    errors = [OSError(str(number)) for number in range(8)]
    found = [detector.record_failure(error, 0, 10) for error in errors]
    assert found == [True] + [False] * 7
    assert detector.is_failing
    assert (detector.consecutive_failures, detector.health_generation) == (1, 1)
    assert detector.retry_at == 11
    assert detector.last_error is errors[-1]
    assert detector.recent_failures(10) == 8


def test_failures_in_a_row_double_the_wait() -> None:
    """Each dial that was begun after the last failure, and fails, doubles the back-off."""
    detector = a_detector()
    waits = []
    for now in range(0, 600, 100):
        assert detector.record_failure(OSError(), detector.health_generation, now)
        waits.append(detector.retry_at - now)
    assert waits == [1, 2, 4, 4, 4, 4], "at the cap, up to half is subtracted"
    assert detector.failing_since == 0


def test_a_first_delay_holds_until_the_first_success() -> None:
    """The back-off of a replacement begins with the delay that it is given, until it works."""
    config = SetConfig(min_connection_backoff=0.25, max_connection_backoff=8.0, spread=0.0)
    detector = FailureDetector(config, Least(), 1.0)
    waits = []
    for _ in range(3):
        detector.record_failure(OSError(), detector.health_generation, 0)
        waits.append(detector.retry_at)
    assert waits == [1, 2, 4]
    assert detector.record_success(detector.health_generation)
    detector.record_failure(OSError(), detector.health_generation, 0)
    assert detector.retry_at == 0.25


def test_g_the_wait_is_jittered() -> None:
    """The back-off is drawn from the detector's own random numbers."""
    detector = a_detector(random.Random(5), spread=0.5)
    detector.record_failure(OSError(), 0, 100)
    expected = jittered_delay(1, minimum=1, maximum=8, spread=0.5, rng=random.Random(5))
    assert detector.retry_at == 100 + expected


def test_old_evidence_proves_nothing() -> None:
    """A connection from before the last failure neither clears nor blames its backend."""
    detector = failing()
    assert not detector.record_success(0)
    assert not detector.record_failure(OSError(), 0, 5)
    assert detector.consecutive_failures == 1
    assert detector.record_success(1)
    assert not detector.is_failing
    assert not detector.record_success(1), "it does not fail"
    assert not detector.record_failure(OSError(), 0, 6), "it has been proved since"
    assert detector.record_failure(OSError(), 1, 7)
    assert (detector.consecutive_failures, detector.retry_at) == (1, 8)
    assert detector.failing_since == 7


def test_a_failed_close_is_only_recorded() -> None:
    """An error that says nothing about the backend counts, but does not make it fail."""
    detector = a_detector()
    error = OSError()
    detector.record_error(error, 3)
    assert (detector.last_error, detector.last_error_at) == (error, 3)
    assert detector.recent_failures(3) == 1
    assert not detector.is_failing


def test_the_error_of_a_connect_is_kept_apart() -> None:
    """A connect error is kept, despite other errors, until the backend works again."""
    detector = a_detector()
    refused, other = OSError(), OSError()
    detector.record_connect_error(refused, 3)
    detector.record_failure(refused, 0, 3)
    detector.record_error(other, 4)
    assert (detector.connect_error, detector.connect_error_at) == (refused, 3)
    assert (detector.last_error, detector.last_error_at) == (other, 4)


def test_d_no_error_is_kept_after_recovery() -> None:
    """While a backend fails its errors can be read; a minute after the last they are dropped."""

    class Heavy(Exception):
        pass

    detector = a_detector()
    error = Heavy()
    gone = weakref.ref(error)
    detector.record_connect_error(error, 0)
    detector.record_failure(error, 0, 0)
    del error
    assert [type(kept) for kept in errors_of(detector)] == [Heavy, Heavy]
    assert detector.record_success(1)
    assert detector.connect_error is None
    assert detector.recent_failures(30) == 1
    assert detector.last_error is gone()
    assert detector.recent_failures(100) == 0
    gc.collect()
    assert gone() is None
    assert detector.last_error is None


@pytest.mark.parametrize("method", ["record_error", "record_connect_error"])
def test_d_no_frame_is_kept(method: str) -> None:
    """Neither traceback nor context nor cause stays with an error that is recorded."""
    detector = a_detector()
    try:
        try:
            raise KeyError
        except KeyError as cause:
            raise OSError from cause
    except OSError as exc:
        error = exc
    getattr(detector, method)(error, 1)
    assert (error.__traceback__, error.__context__, error.__cause__) == (None, None, None)


def test_a_dial_given_up_leaves_no_error() -> None:
    """An abandoned dial is evidence, but no failure that anybody saw."""
    detector = a_detector()
    assert detector.record_abandoned(0, 2)
    assert detector.is_failing
    assert detector.last_error is None
    assert detector.recent_failures(2) == 0


def test_an_ineligible_backend_is_probed_but_has_not_failed() -> None:
    """`IneligibleBackendError` keeps a backend from use, is readable, and counts as nothing."""
    detector = a_detector()
    error = IneligibleBackendError("a replica")
    assert detector.record_ineligible(error, 0, 10)
    assert not detector.record_ineligible(error, 0, 10)
    assert (detector.is_failing, detector.is_ineligible) == (True, True)
    assert detector.connect_error is error
    assert detector.last_error is None
    assert detector.recent_failures(10) == 0
    assert detector.retry_at == 11
    assert detector.record_failure(OSError(), 1, 12)
    assert (detector.is_failing, detector.is_ineligible) == (True, False)
    assert detector.record_ineligible(error, 2, 20)
    assert detector.record_success(3)
    assert (detector.is_failing, detector.is_ineligible) == (False, False)


def test_old_dials_do_not_make_a_failing_backend_ineligible() -> None:
    """An `IneligibleBackendError` of a dial from before the last failure is no evidence."""
    detector = failing()
    assert not detector.record_ineligible(IneligibleBackendError(), 0, 1)
    assert not detector.is_ineligible


@pytest.mark.parametrize("count", [0, 1, 3, MAX_DOUBLINGS, 100])
def test_the_hang_timeout_grows_with_each_failure(count: int) -> None:
    """A dial may take twice as long after each failure, but not without end."""
    assert failing(count).scaled_timeout(1.5) == 1.5 * 2 ** min(count, MAX_DOUBLINGS)


def test_one_success_ends_many_failures() -> None:
    """One connection that proves itself ends any number of failures."""
    detector = failing(3)
    assert detector.record_success(detector.health_generation)
    assert not detector.is_failing
    assert detector.failing_since is None
    assert detector.record_failure(OSError(), detector.health_generation, 100)
    assert detector.retry_at == 101, "the back-off begins anew"


@pytest.mark.parametrize(("backoff", "wait"), [(0.25, 0.25), (1.0, 1.0), (4.0, MAX_HALF_OPEN)])
def test_half_open(backoff: float, wait: float) -> None:
    """A probe has to last as long as the back-off, but at most a second; until then there is
    no other."""
    detector = failing(min_connection_backoff=backoff)
    assert detector.begin_half_open(50) == wait
    assert detector.retry_at == 50 + wait
    assert detector.is_half_open
    assert detector.is_failing, "to connect proves nothing"


@pytest.mark.parametrize("end", ["success", "failure", "gone"])
def test_half_open_ends(end: str) -> None:
    """Others may be dialled when the probe has proved itself, failed or gone."""
    detector = failing()
    detector.begin_half_open(50)
    if end == "success":
        detector.record_success(detector.health_generation)
    elif end == "failure":
        detector.record_abandoned(detector.health_generation, 51)
    else:
        detector.end_half_open()
    assert not detector.is_half_open


def test_an_old_failure_does_not_end_half_open() -> None:
    """A connection from before the last failure says nothing about the probe."""
    detector = failing()
    detector.begin_half_open(50)
    detector.record_failure(OSError(), 0, 50.5)
    assert detector.is_half_open


def test_a_half_open_ends_as_soon_as_its_connection_is_gone() -> None:
    """The next probe may follow after the shortest delay, not after the probe's full time, and
    a failure of it continues the same back-off."""
    detector = failing(6, min_connection_backoff=0.02, max_connection_backoff=30)
    detector.begin_half_open(50)
    assert detector.retry_at == 50 + 0.02 * 32
    detector.end_half_open()
    assert detector.retry_at == 50.02
    assert detector.consecutive_failures == 6
    detector.record_failure(OSError(), detector.health_generation, 51)
    assert detector.retry_at == 51 + 0.02 * 64


def test_a_half_open_that_is_over_is_not_ended_again() -> None:
    """The end of a connection that was no probe, or no more, changes nothing."""
    detector = failing(3)
    detector.end_half_open()
    assert detector.retry_at == 4
    detector.begin_half_open(10)
    detector.record_abandoned(detector.health_generation, 10.5)
    detector.end_half_open()
    assert detector.retry_at == 14.5
    assert detector.consecutive_failures == 4


def test_when_nothing_is_online_a_backend_is_retried_once_at_once() -> None:
    """The next try moves to within `spread` seconds, once until the backend recovers."""
    detector = a_detector(random.Random(1), spread=0.5)
    assert not detector.retry_soon(0), "it does not fail"
    for now in range(3):
        detector.record_failure(OSError(), detector.health_generation, now)
    assert detector.retry_soon(3)
    assert 3 < detector.retry_at < 3.5
    detector.record_failure(OSError(), detector.health_generation, 4)
    later = detector.retry_at
    assert not detector.retry_soon(5)
    assert detector.retry_at == later > 8
    detector.record_success(detector.health_generation)
    detector.record_failure(OSError(), detector.health_generation, 100)
    assert detector.retry_soon(100)


def test_a_try_that_is_near_is_not_put_off() -> None:
    """An immediate retry never comes later than the retry that it replaces."""
    detector = failing()
    assert not detector.retry_soon(2)
    assert detector.retry_at == 1
    assert detector.retry_soon(0.5)
    assert detector.retry_at == 0.5


def test_when_nothing_is_online_the_back_off_is_capped() -> None:
    """With claimants waiting, the next try comes within the cap, at a jittered time."""
    found = set()
    for seed in range(50):
        detector = a_detector(random.Random(seed), min_connection_backoff=8)
        assert not detector.cap_retry(0, 1.0), "it does not fail"
        detector.record_failure(OSError(), 0, 0)
        assert detector.cap_retry(2, 1.0)
        found.add(detector.retry_at)
        assert not detector.cap_retry(2, 1.0), "it is near enough"
    assert 2.5 <= min(found) < 2.55
    assert 2.95 < max(found) <= 3


def test_a_probe_is_not_hurried() -> None:
    """While a probe has to prove itself, no other is dialled, whatever is online."""
    detector = failing(4)
    detector.begin_half_open(50)
    assert not detector.retry_soon(50)
    assert not detector.cap_retry(50, 0.1)
    assert detector.retry_at == 51
