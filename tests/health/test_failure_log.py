"""`FailureLog`: which failures of a backend are worth a line in the log."""

from __future__ import annotations

import logging

from qorb_trio._health.failure_log import FailureLog, LogLine

REFUSED = ConnectionRefusedError(111, "refused")


def a_log() -> FailureLog:
    """The log of one backend."""
    return FailureLog("db", "a:1")


def fail(log: FailureLog, now: float, tried: str = "connect") -> LogLine | None:
    """A failure whose next try is known."""
    return log.record_failure(tried, REFUSED, now, retry_at=now + 0.02)


def lines_of(log: FailureLog, times: list[float]) -> list[float]:
    """The times of those failures that are logged."""
    return [now for now in times if fail(log, now) is not None]


def test_d_the_first_failure_is_logged_at_once_with_all_that_is_known() -> None:
    """The line names the operation, the backend, the reason, and the time of the next try."""
    line = fail(a_log(), 100)
    assert line is not None
    assert line.level == logging.WARNING
    assert str(line) == (
        "pool db: backend a:1: connect failed: ConnectionRefusedError: [Errno 111] refused;"
        " next try in 0.02 s"
    )


def test_d_each_attempt_has_its_name() -> None:
    """A health check, and a hook, are told apart from a connect."""
    for tried in ("health check", "on_acquire", "on_recycle"):
        line = a_log().record_failure(tried, TimeoutError(), 5)
        assert str(line) == f"pool db: backend a:1: {tried} failed: TimeoutError"


def test_d_the_next_try_may_be_due() -> None:
    """A try that is not in the future is due now."""
    line = a_log().record_failure("connect", TimeoutError(), 5, retry_at=5)
    assert str(line).endswith("TimeoutError; next try now")


def test_d_a_refused_port_has_one_line_in_the_first_second() -> None:
    """Many failures within a second are one line."""
    times = [number / 50 for number in range(50)]
    assert lines_of(a_log(), times) == [0]


def test_b_an_outage_has_lines_at_doubling_distances_up_to_thirty_seconds() -> None:
    """Of one failure a second, those at doubling distances are logged, then one every 30 s."""
    times = [float(now) for now in range(200)]
    assert lines_of(a_log(), times) == [0, 1, 3, 7, 15, 31, 61, 91, 121, 151, 181]


def test_b_a_silent_backend_has_a_line_every_thirty_seconds() -> None:
    """Health checks that fail have one line at the start, and one every 30 s."""
    log = a_log()
    times = [float(now) for now in range(0, 121, 4)]
    assert [now for now in times if fail(log, now, "health check")] == [0, 32, 64, 96]


def test_b_another_failure_is_told_soon_after_a_failed_health_check() -> None:
    """If a silent backend begins to refuse connections, the log says so within a second."""
    log = a_log()
    assert fail(log, 0, "health check") is not None
    assert fail(log, 0.5, "health check") is None
    line = fail(log, 1.5)
    assert "connect failed" in str(line)
    assert "1 more since the last line" in str(line)


def test_d_a_line_has_the_number_of_failures_since_the_last() -> None:
    """Failures without a line of their own are counted in the next one."""
    log = a_log()
    assert fail(log, 0) is not None
    assert [fail(log, number / 10) for number in range(1, 8)] == [None] * 7
    line = fail(log, 1.5)
    assert "refused (7 more since the last line); next try" in str(line)
    assert "more" not in str(fail(log, 10))


def test_d_a_recovery_has_one_line_with_the_duration() -> None:
    """The recovery is one INFO line, however many failures there were."""
    log = a_log()
    lines_of(log, [10.0, 11.0, 12.5])
    line = log.record_recovery(22.25)
    assert line is not None
    assert line.level == logging.INFO
    assert str(line) == "pool db: backend a:1 works again after 12.2 s"
    assert log.record_recovery(23) is None


def test_d_long_outages_have_whole_seconds() -> None:
    """The duration of a long outage is a plain number."""
    log = a_log()
    fail(log, 0)
    assert str(log.record_recovery(86_400)).endswith(" after 86400 s")


def test_d_without_an_outage_there_is_no_recovery() -> None:
    """A backend that never failed, or had an error that says nothing, does not recover."""
    log = a_log()
    assert log.record_recovery(5) is None
    assert log.record_error("disconnect", OSError("no"), 6) is not None
    assert log.record_recovery(7) is None


def test_d_a_later_outage_begins_anew() -> None:
    """After a time of peace the first failure is logged at once, and distances begin anew."""
    log = a_log()
    lines_of(log, [float(now) for now in range(100)])
    log.record_recovery(100)
    times = [130.0 + now for now in range(10)]
    assert lines_of(log, times) == [130, 131, 133, 137]


def test_b_a_backend_that_comes_and_goes_does_not_fill_the_log() -> None:
    """Of an outage every two seconds for ten minutes, few have lines, and those have both."""
    log, lines = a_log(), []
    for number in range(300):
        lines += [fail(log, 2.0 * number), log.record_recovery(2.0 * number + 1)]
    logged = [line for line in lines if line is not None]
    assert 40 < len(logged) < 60
    levels = [line.level for line in logged]
    assert levels == [logging.WARNING, logging.INFO] * (len(logged) // 2)
    assert "(14 more since the last line)" in str(logged[-2])


def test_d_the_errors_that_say_nothing_share_the_distances() -> None:
    """Errors that are no evidence are logged as seldom, and do not delay the first failure."""
    log = a_log()
    times = [float(now) for now in range(20)]
    found = [now for now in times if log.record_error("disconnect", OSError(), now) is not None]
    assert found == [0, 1, 3, 7, 15]
    assert fail(log, 20) is not None, "the first of an outage"
    assert log.record_recovery(21) is not None


def test_d_a_backend_that_is_not_eligible_has_one_line() -> None:
    """An ineligible backend has one INFO line, and another when it has become eligible."""
    log = a_log()
    replica = Exception("a replica")
    lines = [log.record_ineligible(replica, now) for now in range(100)]
    assert lines[1:] == [None] * 99
    assert lines[0] is not None
    assert lines[0].level == logging.INFO
    assert str(lines[0]) == "pool db: backend a:1 is not eligible now: Exception: a replica"
    assert str(log.record_recovery(100)) == "pool db: backend a:1 works again after 100 s"
    assert log.record_ineligible(replica, 101) is not None


def test_a_failing_backend_may_become_ineligible() -> None:
    """The outage goes on, with its beginning."""
    log = a_log()
    fail(log, 0)
    assert log.record_ineligible(Exception("a replica"), 5) is not None
    assert str(log.record_recovery(10)).endswith("after 10 s")


def test_h_a_line_cannot_be_forged() -> None:
    """Names, and the texts of errors, are escaped."""
    log = FailureLog("db\n", "a\u202e:1")
    line = log.record_failure(
        "connect", ConnectionError("refused\n12:00\tWARNING\tlogin_ok\x1b[8m"), 0
    )
    assert str(line) == (
        r"pool db\n: backend a\u202e:1: connect failed:"
        r" ConnectionError: refused\n12:00\tWARNING\tlogin_ok\x1b[8m"
    )


def test_d_an_error_that_cannot_be_shown_harms_nobody() -> None:
    """A faulty ``__str__`` is not called by a handler: the line has texts and numbers only."""

    class Faulty(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    line = a_log().record_failure("connect", Faulty(), 0)
    assert line is not None
    assert {type(arg) for arg in line.args} == {str}
    assert "Faulty that cannot be shown" in str(line)
