"""`parse_message`: reads a message from a server that may be faulty or hostile. No I/O here.

However large a message is, what is kept of it is bounded: characters, sets, and the length of
each text. What is left out is said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, final

import attrs

from .._util import printable

#: The maximum number of characters of a message. A set has about 400.
MAX_LENGTH: Final = 4_000_000
#: The maximum number of sets, and of pools, holders and events, that are kept of a message.
MAX_SETS: Final = 5_000
MAX_ITEMS: Final = 1_000
#: The maximum length of a text.
MAX_TEXT: Final = 500
#: No number in a message is as great as this.
_LIMIT: Final = 1 << 64

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_decode: Final = json.JSONDecoder().raw_decode


@final
@attrs.frozen
class Fields:
    """The fields of one JSON object, each checked when it is read."""

    _found: dict[str, Any]

    def objects(self, key: str) -> list[Fields]:
        """Return a list of objects, empty if the key is missing."""
        value = self._found.get(key, [])
        if not (isinstance(value, list) and all(isinstance(it, dict) for it in value)):
            raise _wrong(key, value)
        return [Fields(it) for it in value[:MAX_ITEMS]]

    def maybe_count(self, key: str) -> int | None:
        """Return a number of things. A `bool` is an `int` in Python, but is not accepted here."""
        value = self._found.get(key)
        if value is not None and not (type(value) is int and 0 <= value < _LIMIT):
            raise _wrong(key, value)
        return value

    def count(self, key: str) -> int:
        """Return a number of things, 0 if it is missing."""
        return self.maybe_count(key) or 0

    def maybe_seconds(self, key: str) -> float | None:
        """Return a duration in seconds."""
        value = self._found.get(key)
        if value is not None and not (type(value) in {int, float} and 0 <= value < _LIMIT):
            raise _wrong(key, value)
        return value

    def text(self, key: str, default: object = "") -> str:
        """Return any value as a text that can be shown."""
        value = self._found.get(key, default)
        return "" if value is None else shown(value)

    def flag(self, key: str, *, default: bool) -> bool:
        """Return True or False, by Python's rules for truth."""
        return bool(self._found.get(key, default))


def shown(value: object) -> str:
    """Return a value from a message as a text of bounded length for a terminal."""
    text = value if isinstance(value, str) else str(value)
    return printable(text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}...")


def _wrong(key: str, value: object) -> ValueError:
    return ValueError(f"a message whose {key} is {printable(repr(value)[:60])}")


@final
@attrs.frozen
class Message:
    """One message, or the part of it that is kept."""

    sets: dict[str, Fields]
    rest: Fields
    left_out: str
    """The reason why not all of the message is kept, in words; empty if all of it is."""


def parse_message(text: str) -> Message:
    """Parse a message. One of `MAX_LENGTH` characters may have lost its end.

    Raises:
      ValueError: it is not a message.
    """
    try:
        return _parse(text)
    except RecursionError:
        raise ValueError("a message that is nested too deeply") from None


def _parse(text: str) -> Message:
    is_cut, left_out = len(text) >= MAX_LENGTH, ""
    found: Any
    if is_cut or text.count("{") > MAX_SETS:
        found, count = _parse_beginning(text, is_cut=is_cut)
        kept = len(found.get("sets", ()))
        if is_cut:
            left_out = f"a message is too long: only the first {kept:,} backends are shown"
        elif count > kept:
            left_out = f"only the first {kept:,} of {count:,} backends are shown"
    else:
        found = json.loads(text)
    sets = found.pop("sets", None) if isinstance(found, dict) else None
    if not (isinstance(sets, dict) and all(isinstance(it, dict) for it in sets.values())):
        raise ValueError("a message without sets of slots")
    return Message({key: Fields(it) for key, it in sets.items()}, Fields(found), left_out)


def _parse_beginning(text: str, *, is_cut: bool) -> tuple[dict[str, Any], int]:
    """Parse a long message piece by piece; return it and the number of sets that were seen."""
    found: dict[str, Any] = {}
    count = 0
    reader = _Reader(text)
    try:
        for key in reader.members():
            if key != "sets":
                found[key] = reader.value()
                continue
            sets = found["sets"] = {}
            for name in reader.members():
                value = reader.value()
                count += 1
                if len(sets) < MAX_SETS:
                    sets[name] = value
    except ValueError:
        if not is_cut:
            raise
    return found, count


@final
class _Reader:
    """Reads JSON values one after the other, so that not all of them are in memory."""

    def __init__(self, text: str) -> None:
        self._text: str = text
        self._at: int = 0

    def members(self) -> Iterator[str]:
        """Iterate over the keys of an object. The caller reads each value before the next key."""
        self._take("{")
        if self._take("}", '"') == "}":
            return
        self._at -= 1
        while True:
            key = self.value()
            self._take(":")
            yield key
            if self._take(",", "}") == "}":
                return
            self._take('"')
            self._at -= 1

    def value(self) -> Any:
        """Read a value."""
        self._skip()
        value, self._at = _decode(self._text, self._at)
        return value

    def _skip(self) -> None:
        match = _SPACE.match(self._text, self._at)
        assert match is not None
        self._at = match.end()

    def _take(self, *expected: str) -> str:
        """Read one character, after white space."""
        self._skip()
        character = self._text[self._at : self._at + 1]
        if character not in expected or not character:
            raise ValueError(f"no JSON at character {self._at}")
        self._at += 1
        return character
