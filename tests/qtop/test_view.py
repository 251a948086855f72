"""`View` and `Screen`: what the terminal shows of the messages."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from rich.console import Console
from rich.text import Text

from qorb_trio._util import printable
from qorb_trio.qtop._columns import COLUMNS, seconds
from qorb_trio.qtop._screen import SHOWN, Screen, sparkline
from qorb_trio.qtop._view import View

#: A message of qorb's own server.
QORB = {
    "claims": 7,
    "sets": {
        "[::1]:6001": {
            "connecting_slots": 0,
            "unclaimed_slots": 3,
            "checking_slots": 1,
            "claimed_slots": 2,
            "total_claims": 40,
        },
        "[::1]:6002": {
            "connecting_slots": 1,
            "unclaimed_slots": 0,
            "checking_slots": 0,
            "claimed_slots": 0,
            "total_claims": 0,
        },
    },
}


def a_set(pool: str, backend: str, **more: Any) -> dict[str, Any]:
    """A backend in a message of ours."""
    plain = {
        "connecting_slots": 0,
        "unclaimed_slots": 2,
        "checking_slots": 0,
        "claimed_slots": 1,
        "total_claims": 10,
        "closing_slots": 0,
        "wanted_slots": 3,
        "online": True,
        "failures": 0,
        "last_error": None,
        "wait_p50": 0.001,
        "wait_p99": 0.25,
        "pool": pool,
        "backend": backend,
        "failed_claims": 0,
        "stale": 0,
        "retiring": 0,
        "ejected_for": None,
    }
    return plain | more


def a_pool(name: str, **more: Any) -> dict[str, Any]:
    """A pool in a message of ours."""
    plain = {
        "name": name,
        "claims": 20,
        "waiting": 2,
        "slots": 6,
        "max_slots": 16,
        "departed": 0,
        "backends": 2,
        "wait_p50": 0.001,
        "wait_p99": 0.25,
    }
    return plain | more


def ours(interval: float = 1.0, claims: int = 20, total: int = 10) -> dict[str, Any]:
    """A message of ours, of two pools."""
    return {
        "claims": 0,
        "sets": {
            "db/a": a_set("db", "a", total_claims=total),
            "db/b": a_set(
                "db", "b", online=False, failures=3, last_error="OSError: no", wait_p50=None
            ),
            "cache/a": a_set("cache", "a", claimed_slots=4, wait_p99=None),
        },
        "interval": interval,
        "pools": [a_pool("db", claims=claims), a_pool("cache", departed=1, wait_p50=None)],
        "holders": [
            {"id": 1, "pool": "db", "backend": "a", "age": 12.5, "task": "handler 7"},
            {"id": 2, "pool": "cache", "backend": "a", "age": 1.5, "task": "other"},
        ],
        "events": [
            {"age": 1.0, "pool": "db", "event": "connect_failed", "backend": "b", "detail": "no"},
            {
                "age": 0.0,
                "pool": "cache",
                "event": "claim_failed",
                "backend": None,
                "detail": "late",
            },
        ],
    }


def picture(screen: Screen, height: int = 24, now: float = 0.0, width: int = 200) -> str:
    """The screen as text."""
    return drawn(screen.draw(height, width, now), width)


def drawn(what: Any, width: int = 200) -> str:
    """Draw something with rich, as text."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(what)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def shown(*messages: dict[str, Any], **choices: Any) -> Screen:
    """A screen that has learnt from messages, one each second."""
    screen = Screen("ws://x", **choices)
    for number, message in enumerate(messages):
        screen.view.take(json.dumps(message), float(number))
    screen.status = "live"
    return screen


# --- What is learnt ---------------------------------------------------------------------


def test_rates() -> None:
    """Rates are differences to the previous message, by the times in the messages."""
    view = View()
    view.take(json.dumps(ours(0.0, claims=20, total=10)), 0.0)
    assert [row.rate for row in view.rows] == [0, 0, 0]
    assert not view.claims
    view.take(json.dumps(ours(2.0, claims=60, total=30)), 99.0)
    assert [row.rate for row in view.rows] == [10, 0, 0]
    assert [pool.rate for pool in view.pools] == [20, 0]
    assert [*view.claims["db"]] == [20]
    assert [*view.waiting["db"]] == [2]


def test_a_backend_that_counts_from_zero_again() -> None:
    """A backend that has left and come back has no rate below zero."""
    view = View()
    for total in (10, 3):
        view.take(json.dumps(ours(1.0, total=total)), 0.0)
    assert view.rows[0].rate == 0


def test_after_a_loss_nothing_is_reckoned_from_before() -> None:
    """The numbers of another run of the program are not compared with those of the first."""
    view = View()
    view.take(json.dumps(ours(0.0, claims=0)), 0.0)
    view.lost()
    view.take(json.dumps(ours(0.0, claims=5000)), 60.0)
    assert view.pools[0].rate == 0
    assert not view.claims


def test_messages_of_qorb() -> None:
    """The messages of qorb are shown, with the fields that they lack as unknown."""
    view = View()
    view.take(json.dumps(QORB), 0.0)
    first, second = view.rows
    assert (first.name, first.online, first.claimed, first.total) == ("[::1]:6001", True, 2, 40)
    assert (second.online, second.connecting) == (False, 1)
    assert first.wanted is first.failures is first.closing is first.p50 is None
    (pool,) = view.pools
    assert (pool.claims, pool.slots, pool.waiting, pool.max_slots) == (40, 7, None, None)
    text = picture(shown(QORB, QORB))
    assert "[::1]:6001" in text
    assert "waiting" not in text


def test_messages_of_qorb_come_at_any_time() -> None:
    """qorb sends one with each change, too: a rate is never over next to no time."""
    view = View()
    message = json.loads(json.dumps(QORB))
    for now, total in ((0.0, 40), (0.001, 41), (0.5, 45), (1.0, 50), (1.001, 51), (2.0, 60)):
        message["sets"]["[::1]:6001"]["total_claims"] = total
        view.take(json.dumps(message), now)
        assert view.rows[0].total == total
        assert view.rows[0].rate == (0 if now < 1 else 10)
    assert [*view.claims[""]] == [10, 10]


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        "{}",
        '{"sets": []}',
        '{"sets": {"a": {"total_claims": "many"}}}',
        '{"sets": {"a": {"wanted_slots": "many"}}}',
        '{"sets": {"a": []}}',
        '{"sets": {"a": {"total_claims": -1}}}',
        '{"sets": {"a": {"total_claims": true}}}',
        '{"sets": {"a": {"total_claims": 1e3}}}',
        '{"sets": {"a": {"total_claims": 99999999999999999999}}}',
        '{"sets": {"a": {"wait_p50": Infinity}}}',
        '{"sets": {"a": {"wait_p99": NaN}}}',
        '{"sets": {}, "interval": -1}',
        '{"sets": {}, "interval": "soon"}',
        '{"sets": {}, "pools": null}',
        '{"sets": {}, "pools": [1]}',
        '{"sets": {}, "pools": [{"waiting": NaN}]}',
        '{"sets": {}, "holders": 3}',
        '{"sets": {}, "holders": [{"age": "x"}]}',
        '{"sets": {}, "events": {}}',
        '{"sets": {}, "events": [{"age": []}]}',
        "[" * 100_000,
        '{"sets": {}, "interval": ' + "[" * 100_000,
    ],
)
def test_what_is_no_message(text: str) -> None:
    """Something else that speaks over a WebSocket is found out, and nothing of it is shown."""
    view = View()
    view.take(json.dumps(ours()), 0.0)
    before = (view.rows, view.pools, view.holders, list(view.events))
    with pytest.raises(ValueError, match=r".*"):
        view.take(text, 1.0)
    assert (view.rows, view.pools, view.holders, list(view.events)) == before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def replace_something(data: st.DataObject, found: Any) -> Any:
    """The same, but for one value in it, which is anything."""
    if not (found and isinstance(found, dict | list)) or data.draw(st.integers(0, 3)) == 0:
        return data.draw(JSON)
    inside = found if isinstance(found, dict) else dict(enumerate(found))
    key = data.draw(st.sampled_from(sorted(inside)))
    inside = inside | {key: replace_something(data, inside[key])}
    return inside if isinstance(found, dict) else [*inside.values()]


@settings(max_examples=50)
@given(st.data())
def test_whatever_comes_is_refused_or_shown(data: st.DataObject) -> None:
    """A message with anything anywhere is either none, or it can be drawn."""
    screen = Screen("ws://x")
    for number in range(3):
        message = ours(claims=20 + number)
        if number:
            message = replace_something(data, message)
        try:
            screen.view.take(json.dumps(message), float(number))
        except ValueError:
            screen.view.lost()
        for _ in SHOWN:
            assert picture(screen)
            screen.press("show")
        assert drawn(screen.report(200))


def test_an_interval_of_next_to_nothing() -> None:
    """No rate is over an interval that can only be a mistake."""
    view = View()
    for interval, total in ((0.0, 10), (5e-324, 20), (1.0, 30)):
        view.take(json.dumps(ours(interval, total=total)), 0.0)
    assert view.rows[0].rate == 20


def test_names_cannot_change_the_terminal() -> None:
    """A character that would move the cursor, or end a line, is escaped."""
    assert printable("a\x1b[2Jb\nc\x9b\u2028\ud800") == r"a\x1b[2Jb\nc\x9b\u2028\ud800"
    message = ours()
    message["sets"] = {"\x1b[2J": a_set("\x1b", "\x1b[2J", last_error="\x1b")}
    message["pools"] = [a_pool("\x1b")]
    message["holders"] = [message["holders"][0] | {"task": "\x1b"}]
    message["events"] = [message["events"][0] | {"detail": "\x1b", "event": "\x1b"}]
    screen = shown(message, message)
    for _ in SHOWN:
        assert "\x1b" not in picture(screen)
        screen.press("show")


# --- What is drawn ----------------------------------------------------------------------


def lines_with(text: str, word: str) -> list[str]:
    """The lines of a text that have a word."""
    return [line for line in text.splitlines() if word in line]


def test_the_table() -> None:
    """All that is known of a backend is in its line."""
    text = picture(shown(ours(0.0), ours(1.0, claims=40, total=30)))
    assert "● live" in text
    assert "20.0 claims/s" in text
    assert "2 waiting" in text
    assert "6 of 16 slots (1 of departed backends)" in text
    assert "p50 1 ms  p99 250 ms" in text
    (bad,) = lines_with(text, "OSError")
    assert bad.split() == [
        *("b", "db", "no", "0.0", "0", "2", "0", "1", "0", "3", "10", "3", "0", "0", "0"),
        *("-", "250", "ms", "OSError:", "no"),
    ]
    assert lines_with(text, " 20.0 ")


@pytest.mark.parametrize("column", COLUMNS)
def test_sorting(column: str) -> None:
    """The table can be sorted by each of its columns, in both directions."""
    screen = shown(ours(0.0), ours(1.0), sort=column)
    value = COLUMNS[column].value
    values = [value(row) for row in screen.rows()]
    assert values == sorted(values)
    screen.press("reverse")
    assert [value(row) for row in screen.rows()] == values[::-1]
    assert COLUMNS[column].title + "▼" in picture(screen)


def test_keys_for_columns() -> None:
    """The arrows go through the columns, and round."""
    screen = shown(ours())
    for key, expected in (("right", "pool"), ("left", "backend"), ("left", "error")):
        screen.press(key)
        assert screen.sort == expected
    screen.press("quit")  # not for the screen


def test_one_pool_of_several() -> None:
    """`p` goes through the pools; of one pool, only its own is shown."""
    screen = shown(ours(0.0), ours(1.0))
    seen = []
    for _ in range(4):
        seen.append(screen.pool)
        assert len(screen.rows()) == {None: 3, "db": 2, "cache": 1}[screen.pool]
        assert ("POOL" in picture(screen)) == (screen.pool is None)
        screen.press("pool")
    assert seen == [None, "db", "cache", None]
    screen = shown(ours(), pool="unknown")
    assert screen.rows() == []
    screen.press("pool")
    assert screen.pool is None


def test_holders_and_events() -> None:
    """Tab shows the holders with their times, then the recent events, then the backends again."""
    screen = shown(ours())
    screen.press("show")
    (line,) = lines_with(picture(screen), "handler 7")
    assert line.split() == ["12.5", "s", "handler", "7", "a", "db"]
    screen.press("show")
    first, second = picture(screen, now=10.0).splitlines()[5:7]
    assert first.split() == ["10", "s", "claim_failed", "cache", "late"]
    assert second.split() == ["11", "s", "connect_failed", "b", "db", "no"]
    screen.press("pool")
    assert len(lines_with(picture(screen), "_failed")) == 1
    screen.press("show")
    assert screen.shown == "backends"


def test_an_ejected_backend_is_marked() -> None:
    """An ejected backend has the time until its trial in place of "yes", and bad claims."""
    message = ours()
    message["sets"]["db/a"] |= {"ejected_for": 4.2, "failed_claims": 5, "stale": 7, "retiring": 1}
    message["sets"]["cache/a"] |= {"ejected_for": 0.0}
    text = picture(shown(message))
    (line,) = lines_with(text, "ejected")
    assert line.split()[:5] == ["a", "db", "ejected", "4.2", "s"]
    assert line.split()[-8:-4] == ["0", "5", "7", "1"]
    assert lines_with(text, "on trial")
    narrow = picture(shown(message, pool="db"), width=80)
    assert "ejected 4.2 s" in narrow
    assert "BAD" in narrow
    assert "BAD" not in picture(shown(ours(), pool="db"), width=80)


def test_d_why_there_are_no_backends_is_said() -> None:
    """If the resolver knows no backend, the screen and the report say why."""
    message = ours() | {"sets": {}}
    message["pools"] = [a_pool("db", backends=0, trouble="no answer from 10.0.0.53:53\x1b[2J")]
    screen = shown(message)
    said = r"no answer from 10.0.0.53:53\x1b[2J"
    lines = picture(screen).splitlines()
    assert lines[2] == f"db: {said}"
    assert lines[-1].startswith(f"backends 0-0 of 0  {said}")
    assert f"db: {said}" in drawn(screen.report(200))
    small = picture(screen, height=6).splitlines()
    assert small[-1].startswith(f"backends 0-0 of 0  {said}")
    assert len(small) <= 6


def test_what_a_pool_says_of_backends_and_refusals() -> None:
    """Of many known backends a few are active, and claims that were refused are counted."""
    message = ours()
    message["pools"] = [a_pool("db", backends=2, known=2000, shed=9)]
    assert "6 of 16 slots  2 of 2000 backends  9 shed" in picture(shown(message))
    message["pools"] = [a_pool("db", suspended=True, shed=9)]
    assert "6 of 16 slots  suspended  9 shed" in picture(shown(message))
    message["pools"] = [a_pool("db", backends=2, known=2, shed=0)]
    assert "6 of 16 slots  p50" in picture(shown(message))


def test_h_what_is_left_out_is_said() -> None:
    """If a message has more backends than are kept, a line says so."""
    message = ours()
    message["sets"] = {f"b{number}": {} for number in range(6000)}
    said = "only the first 5,000 of 6,000 backends are shown"
    assert said in picture(shown(message))
    assert said in drawn(shown(message).report(200))


def test_h_pools_that_are_made_up_are_forgotten() -> None:
    """A server that names other pools in each message does not fill the memory."""
    view = View()
    for number in range(50):
        message = ours(1.0, claims=number)
        message["pools"] = [a_pool(f"p{number - number % 2}", claims=number)]
        view.take(json.dumps(message), float(number))
    assert [*view.claims] == [*view.waiting] == ["p48"]


def test_j_events_are_shown_in_the_order_of_time() -> None:
    """A server may send the events of one pool after those of another."""
    message = ours()
    message["events"] = [
        {"age": age, "pool": "db", "event": f"e{age}", "backend": "a", "detail": ""}
        for age in (1, 9, 4)
    ]
    assert [it.event for it in shown(message).view.events] == ["e9", "e4", "e1"]


def test_more_backends_than_lines() -> None:
    """A long table is cut to the terminal and can be scrolled, to its ends and no further."""
    message = ours()
    message["sets"] = {f"b{i:03}": a_set("db", f"b{i:03}") for i in range(100)}
    message["pools"] = [a_pool("db")]
    screen = shown(message)

    def place() -> str:
        text = picture(screen, height=20)
        assert len(text.splitlines()) <= 20
        return text.splitlines()[-1].partition(" of ")[0]

    assert place() == "backends 1-14"
    screen.press("up")
    assert place() == "backends 1-14"
    screen.press("down")
    assert place() == "backends 11-24"
    for _ in range(20):
        screen.press("down")
    assert place() == "backends 87-100"
    assert len(lines_with(drawn(screen.report(200)), "b0")) == 100


def test_a_terminal_that_is_much_too_small() -> None:
    """Nothing breaks where there is hardly any room."""
    assert picture(shown(ours()), height=1, width=20)
    assert picture(Screen("x"), height=1, width=5)
    lines = picture(shown(ours()), height=5, width=20).splitlines()
    assert [line.split()[0] for line in lines] == ["qtop", "2", "BACKEND▲", "a"]


@pytest.mark.parametrize("width", [*range(10, 200, 7), 80, 200])
def test_columns_that_there_is_room_for(width: int) -> None:
    """A narrow terminal gets fewer columns, but no numbers that are cut, and what is sorted by."""
    message = ours()
    message["sets"]["db/a"]["backend"] = "a" * 60
    message["sets"]["db/b"]["last_error"] = "e" * 300
    for sort in COLUMNS:
        screen = shown(message, sort=sort)
        lines = picture(screen, width=width).splitlines()
        assert len(lines) <= 24
        assert max(map(len, lines)) <= width
        if width > 40:
            assert f"{COLUMNS[sort].title}▲" in lines[4]
        table, _ = screen.backends(width)
        for column in table.columns[1:]:
            assert (
                "LAST" in str(column.header)
                or "POOL" in str(column.header)
                or all(
                    column.width is not None and cell.cell_len <= column.width
                    for cell in column.cells
                    if isinstance(cell, Text)
                )
            )


@pytest.mark.parametrize("width", [80, 100, 200])
def test_holders_and_events_that_there_is_room_for(width: int) -> None:
    """Long texts are cut, and so do not push out when it was or what has happened."""
    message = ours()
    long = {"backend": "b" * 60, "detail": "d" * 300, "task": "t" * 300}
    message["holders"] = [message["holders"][0] | long]
    message["events"] = [message["events"][0] | long]
    screen = shown(message)
    for line in ("12.5 s  ttttt", "1 s  connect_failed  bbbbb"):
        screen.press("show")
        lines = picture(screen, width=width).splitlines()
        assert lines[5].startswith(line)
        assert " db " in f"{lines[5]} "
        assert max(map(len, lines)) <= width
    message["pools"] = [a_pool("db")]
    assert "POOL" not in picture(shown(message), width=width)


def test_what_a_common_terminal_shows() -> None:
    """Of 80 columns the failures, the longest waits and the last error get some."""
    screen = shown(*(ours(1.0, claims=20 + n) for n in range(50)), pool="db")
    lines = picture(screen, width=80).splitlines()
    assert lines[3].split() == [
        *("BACKEND▲", "UP", "CLAIMS/s", "CONN", "FREE", "CLAIMED", "WANT", "FAIL"),
        *("WAIT", "P99", "LAST", "ERROR"),
    ]
    assert lines[1].startswith("db  1.0 claims/s ")
    assert lines[1].endswith("6 of 16 slots  p50 1 ms  p99 250 ms")
    assert lines[-1].endswith("↑↓ scroll")


def test_more_pools_than_lines() -> None:
    """The backends keep half of the terminal with any number of pools."""
    message = ours()
    message["pools"] = [a_pool(f"p{number}") for number in range(30)]
    lines = picture(shown(message)).splitlines()
    assert len(lines) <= 24
    assert "and 21 more pools" in lines[10]
    assert lines_with("\n".join(lines), "handler") == []
    assert "BACKEND▲" in lines[12]
    assert len(lines_with(drawn(shown(message).report(200)), "claims/s ")) == 30


def test_a_pool_that_is_not_there() -> None:
    """A name that no pool has is told, and the key that leads out of it works."""
    screen = shown(ours(), pool="x")
    assert not screen.knows_pool()
    assert "There is no pool x;" in picture(screen)
    screen.press("pool")
    assert screen.knows_pool()
    assert Screen("ws://x").knows_pool()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "-"),
        (0.0, "0 µs"),
        (0.0000123, "12.3 µs"),
        (0.00099949, "999 µs"),
        (0.0009996, "1 ms"),
        (0.25, "250 ms"),
        (12.34, "12.3 s"),
        (3600, "60 min"),
    ],
)
def test_durations(value: float | None, expected: str) -> None:
    """A duration has three digits and the unit that fits."""
    assert seconds(value) == expected


def test_sparklines() -> None:
    """The highest value is a full bar, and the latest values are those that are shown."""
    assert sparkline([]) == ""
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([0, 1, 2, 4]) == "▁▃▅█"
    assert sparkline(range(100), 3) == "███"
    assert sparkline([1], 0) == sparkline([1], -1) == ""
