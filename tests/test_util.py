"""The helpers of every room: exceptions that are kept, and texts from elsewhere."""

from __future__ import annotations

import pytest

from qorb_trio._util import printable, safe_repr, safe_str, strip_traceback, unwrap_single


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
