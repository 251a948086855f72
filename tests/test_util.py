"""The helpers of every room: exceptions that are kept, and texts from elsewhere."""

from __future__ import annotations

import ast
import logging
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

import qorb_trio
from qorb_trio._util import (
    MAX_ERROR_TEXT,
    error_text,
    log_safely,
    printable,
    safe_repr,
    safe_str,
    strip_traceback,
    unwrap_single,
)


def test_a_group_of_one_is_unwrapped() -> None:
    """One layer goes from a group of one, and a group of several stays."""
    inner = ExceptionGroup("mine", [ValueError()])
    assert unwrap_single(ExceptionGroup("a nursery", [inner])) is inner
    several = ExceptionGroup("several", [ValueError(), OSError()])
    assert unwrap_single(several) is several


def raised(exc: Exception) -> Exception:
    """The exception with a traceback, a context and a cause."""
    try:
        try:
            raise KeyError
        except KeyError as cause:
            raise exc from cause
    except Exception as caught:
        return caught


def test_d_no_frame_is_kept_by_an_exception() -> None:
    """Traceback, context and cause go, from the exceptions of a group too."""
    leaf = raised(OSError("refused"))
    group = raised(ExceptionGroup("all attempts failed", [leaf]))
    strip_traceback(group)
    for exc in (group, leaf):
        assert (exc.__traceback__, exc.__context__, exc.__cause__) == (None, None, None)
    strip_traceback(None)


@pytest.mark.parametrize(
    "text", ["", "db-1:5432", "[::1]:80", "naïve café", "数据库", "Привет", "a\\b", "🦀", "e\u0301"]
)
def test_what_is_seen_stays(text: str) -> None:
    """Letters, signs and spaces of any language stay as they are."""
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("refused\n12:00\tWARNING", r"refused\n12:00\tWARNING"),
        ("a\x1b[8m", r"a\x1b[8m"),
        ("a\r\x00\x7f\x9b", r"a\r\x00\x7f\x9b"),
        ("abc\u202edcba\u2066", r"abc\u202edcba\u2066"),
        ("a\u200bb\u200d\u2060\ufeff\xad", r"a\u200bb\u200d\u2060\ufeff\xad"),
        ("a\u2028b\u2029\xa0\u3000", r"a\u2028b\u2029\xa0\u3000"),
        ("\ud800\ue000\uffff", r"\ud800\ue000\uffff"),
        ("\U000e0041\U000e0100", r"\U000e0041\U000e0100"),
        ("a\u3164b\u115f\ufe0f\u034f", r"a\u3164b\u115f\ufe0f\u034f"),
    ],
)
def test_h_what_is_not_seen_is_escaped(text: str, shown: str) -> None:
    """Controls, bidi marks, what has no width, and odd spaces are shown as escapes."""
    assert printable(text) == shown
    assert printable(shown) == shown


def test_anything_can_be_shown() -> None:
    """A faulty ``__str__`` or ``__repr__`` is said and not raised."""

    class Faulty(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

        __repr__ = __str__

    expected = "<Faulty that cannot be shown: ZeroDivisionError>"
    assert printable(Faulty()) == safe_str(Faulty()) == safe_repr(Faulty()) == expected
    assert printable(OSError("no\nluck")) == r"no\nluck"
    assert safe_repr("a") == "'a'"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError("no\nluck"), r"OSError: no\nluck"),
        (TimeoutError(), "TimeoutError"),
        (ConnectionRefusedError(111, "refused"), "ConnectionRefusedError: [Errno 111] refused"),
    ],
)
def test_the_text_of_an_error(error: Exception, text: str) -> None:
    """An error is shown by its type and its text, if it has one."""
    assert error_text(error) == text


def test_the_text_of_an_error_is_bounded() -> None:
    """A server's endless error message does not fill the log."""
    assert error_text(OSError("a" * 10**6)) == "OSError: " + "a" * MAX_ERROR_TEXT + "…"


class Rude(logging.Filter):
    """A filter with a bug."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Raise."""
        raise ZeroDivisionError("a bug in a filter")


@pytest.fixture
def rude() -> Iterator[logging.Logger]:
    """A logger whose filter raises."""
    logger = logging.getLogger("qorb_trio.test_util")
    logger.addFilter(filter_ := Rude())
    yield logger
    logger.removeFilter(filter_)


def test_d_a_filter_that_raises_harms_nobody(
    rude: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exception is shown on standard error, and goes no further."""
    log_safely(rude, logging.ERROR, "a %s", "message")
    assert "ZeroDivisionError: a bug in a filter" in capsys.readouterr().err


def test_d_a_filter_that_raises_in_silence(
    rude: logging.Logger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No error is printed if `logging.raiseExceptions` is False, or without standard error."""
    with monkeypatch.context() as patch:
        patch.setattr(logging, "raiseExceptions", False)
        log_safely(rude, logging.ERROR, "a message")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None)
        log_safely(rude, logging.ERROR, "a message")
    assert capsys.readouterr().err == ""


LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}


def log_calls(source: Path) -> list[str]:
    """Return the places in a module where it calls a logger itself."""
    return [
        f"{source.name}:{node.lineno}"
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in LEVELS
        and "logger" in ast.unparse(node.func.value).lower()
    ]


def test_d_every_line_is_logged_safely() -> None:
    """No module but `_util` calls a logger, because a filter that raises would end the pool.

    `LoggingInstrument` does: an exception removes the instrument, and ends no pool.
    """
    package = Path(qorb_trio.__file__).parent
    instrument = package / "_events" / "logging_instrument.py"
    sources = set(package.rglob("*.py")) - {package / "_util.py", instrument}
    assert [call for source in sorted(sources) for call in log_calls(source)] == []
    assert log_calls(instrument), "the search works"


def test_what_is_logged_safely_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Level, message, arguments and exception reach the log."""
    error = OSError("no")
    log_safely(logging.getLogger("qorb_trio.t"), logging.WARNING, "a %s", "word", exc_info=error)
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.WARNING, "a word")
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert (record.funcName, record.pathname) == (
        "test_what_is_logged_safely_is_logged",
        __file__,
    )


def test_a_traceback_is_formatted_for_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Below the level of the logger, an exception is not formatted."""

    class Unseen(Exception):
        def __str__(self) -> str:
            raise AssertionError

    logger = logging.getLogger("qorb_trio.t")
    with caplog.at_level(logging.WARNING, "qorb_trio.t"):
        log_safely(logger, logging.INFO, "a word", exc_info=Unseen())
    assert not caplog.records


def several_raised(*texts: str) -> Exception:
    """Return an exception with a traceback, a cause, a context and members."""
    refused, other, wrong, group = texts
    try:
        try:
            raise ConnectionRefusedError(refused)
        except ConnectionRefusedError as exc:
            try:
                raise ValueError(wrong) from exc
            except ValueError as member:
                raise ExceptionGroup(group, [OSError(other), member])  # noqa: B904
    except ExceptionGroup as exc:
        return exc


def shown(caplog: pytest.LogCaptureFixture, exc: Exception) -> list[str]:
    """Log an exception, and return the lines that a handler writes."""
    with caplog.at_level(logging.DEBUG, "qorb_trio.t"):
        log_safely(logging.getLogger("qorb_trio.t"), logging.DEBUG, "raised here:", exc_info=exc)
    return logging.Formatter("%(message)s").format(caplog.records[-1]).splitlines()


def test_a_traceback_is_shown_as_python_does(caplog: pytest.LogCaptureFixture) -> None:
    """Frames, causes, contexts and groups stand in the log as in Python's own tracebacks."""
    error = several_raised("refused", "no luck", "wrong", "two of them")
    lines = [line for part in traceback.format_exception(error) for line in part.splitlines()]
    assert shown(caplog, error) == ["raised here:", *lines]


def test_h2_a_traceback_cannot_forge_lines_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The text of each error is on one line of its own, with everything escaped."""
    error = several_raised("refused\n12:00\tWARNING\x1b[8m", "no\nluck", "wrong\nl", "two\ng")
    lines = shown(caplog, error)
    texts = [line.lstrip(" |") for line in lines if r"\n" in line and "raise " not in line]
    assert r"ValueError: wrong\nl" in texts
    assert r"ConnectionRefusedError: refused\n    | 12:00\tWARNING\x1b[8m" in texts, "in a group"
    assert {text.partition(":")[0] for text in texts} == {
        "ConnectionRefusedError",
        "ExceptionGroup",
        "OSError",
        "ValueError",
    }
    assert all(line.isprintable() for line in lines)
    assert not any(line.lstrip(" |").startswith(("12:00", "luck", "l", "g")) for line in lines)


@pytest.mark.real
def test_ff_j1_tests_in_the_background_restore_sigint() -> None:
    """The tests restore SIGINT, which is ignored in a background job."""
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "import tests.conftest\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=True)
