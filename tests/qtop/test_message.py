"""`parse_message`: messages from a server that may be faulty or hostile."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given, strategies as st

from qorb_trio.qtop import _message
from qorb_trio.qtop._message import (
    MAX_ITEMS,
    MAX_LENGTH,
    MAX_SETS,
    MAX_TEXT,
    Fields,
    parse_message,
    shown,
)
from qorb_trio.qtop._view import View

SET = {"connecting_slots": 1, "unclaimed_slots": 2, "total_claims": 3}


def message(count: int, **rest: object) -> str:
    """A message with that number of sets, each with its number as the total."""
    sets = {f"b{number}": SET | {"total_claims": number} for number in range(count)}
    return json.dumps({"claims": 0, "sets": sets, **rest})


def test_a_message_of_common_size_is_kept_whole() -> None:
    """Nothing is left out of a message that is within all bounds."""
    found = parse_message(message(10, interval=1.5))
    assert (len(found.sets), found.left_out) == (10, "")
    assert found.sets["b7"].count("total_claims") == 7
    assert found.rest.maybe_seconds("interval") == 1.5


def test_h_a_message_with_many_sets_is_bounded() -> None:
    """Of 20,000 sets 5,000 are kept, the fields after them are read, and a note says so."""
    found = parse_message(message(20_000, interval=1.5))
    assert list(found.sets) == [f"b{number}" for number in range(MAX_SETS)]
    assert found.left_out == "only the first 5,000 of 20,000 backends are shown"
    assert found.rest.maybe_seconds("interval") == 1.5


def test_h_a_message_that_was_cut_is_bounded() -> None:
    """The part of a message before a cut is kept, and a note says so."""
    found = parse_message(message(200_000)[:MAX_LENGTH])
    assert len(found.sets) == MAX_SETS
    assert found.left_out == "a message is too long: only the first 5,000 backends are shown"


def test_h_memory_for_many_sets() -> None:
    """A message with 200,000 sets takes 30 MB of memory at most, and what is kept 10 MB."""
    text = message(200_000)[:MAX_LENGTH]
    tracemalloc.start()
    try:
        view = View()
        view.take(text, 0.0)
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(view.rows) == MAX_SETS
    assert view.left_out
    assert kept < 10_000_000
    assert most < 30_000_000


@pytest.mark.parametrize("key", ["pools", "holders", "events"])
def test_lists_are_bounded(key: str) -> None:
    """The first thousand objects of each list are kept."""
    found = parse_message(message(1, **{key: [{"name": "x"}] * 3000}))
    assert len(found.rest.objects(key)) == MAX_ITEMS


def test_texts_are_bounded_and_printable() -> None:
    """A long text is cut, and what is not printable is escaped."""
    assert shown("x" * 10_000) == "x" * MAX_TEXT + "..."
    assert shown("a\u202eb\n") == r"a\u202eb\n"
    assert Fields({"a": None, "b": ["\x1b"]}).text("a") == ""
    assert Fields({"b": ["\x1b"]}).text("b") == r"['\x1b']"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"sets":[]}',
        '{"sets":{"a":1}}',
        "[" * 100_000,
        '{"sets":{}}' + "{" * 6000,
        "{" * 6000,
        '{"sets":{"a":{}' + "{" * 6000,
        '{"sets" {}}' + "{" * 6000,
        '{"sets":{},}' + "{" * 6000,
        '{"sets":{1:{}}}' + "{" * 6000,
        "{}" + " " * MAX_LENGTH,
        '{"a":1}' + " " * MAX_LENGTH,
    ],
)
def test_what_is_no_message(text: str) -> None:
    """A text that is not a message is a `ValueError`, long or short."""
    if text.startswith('{"sets":{}}'):
        assert not parse_message(text).sets  # nobody looks at what comes behind it
        return
    with pytest.raises(ValueError, match=r"."):
        parse_message(text)


@given(
    st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=20,
        ),
        max_size=5,
    ),
    st.sampled_from([None, 1]),
)
def test_both_parsers_agree(rest: dict[str, object], indent: int | None) -> None:
    """A message that is long enough for the piecewise parser means the same to it."""
    rest.pop("sets", None)
    text = json.dumps({**rest, "sets": {"a": SET}}, indent=indent)
    plain = parse_message(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_message, "MAX_LENGTH", len(text))
        piecewise = parse_message(text)
    assert piecewise.left_out
    assert (piecewise.sets, piecewise.rest) == (plain.sets, plain.rest)
