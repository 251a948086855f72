"""The options of a claim."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest

from qorb_trio import Backend
from qorb_trio._claims.request import ClaimRequest, make_request

A, B = Backend(("a", 1)), Backend(("b", 1))


@pytest.mark.parametrize("timeout", [None, 0, 0.5, 3, math.inf])
def test_no_options(timeout: float | None) -> None:
    """A claim without options, or with a timeout only, needs no request."""
    assert make_request(timeout) is None
    assert make_request(timeout, None, (), None) is None


def test_options() -> None:
    """A request has the options that were given, and the defaults of the others."""
    assert make_request(1, "k", [A], "report") == ClaimRequest(1, "k", (A,), "report")
    assert make_request(key=0) == ClaimRequest(key=0)
    assert make_request(label="") == ClaimRequest(label="")
    assert ClaimRequest() == ClaimRequest(None, None, (), None)


@pytest.mark.parametrize(
    "avoid", [[A, B], (A, B), {A: 1, B: 2}, iter([A, B])], ids=lambda it: type(it).__name__
)
def test_any_iterable_of_backends(avoid: Any) -> None:
    """The backends to avoid may come in any iterable, which is read once."""
    request = make_request(avoid=avoid)
    assert request is not None
    assert request.avoid == (A, B)


def test_a_set_of_backends() -> None:
    """The usual way to name a backend to avoid is a set."""
    assert make_request(avoid={A}) == ClaimRequest(avoid=(A,))


@pytest.mark.parametrize("avoid", [(), [], set(), iter([])], ids=lambda it: type(it).__name__)
def test_nothing_to_avoid(avoid: Any) -> None:
    """Nothing to avoid is allowed, in any form."""
    assert make_request(avoid=avoid) in {None, ClaimRequest()}


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"timeout": -1}, ValueError, "timeout must not be negative"),
        ({"timeout": math.nan}, ValueError, "timeout must not be"),
        ({"timeout": "1"}, TypeError, "timeout must be a number"),
        ({"timeout": -1, "key": 1}, ValueError, "timeout must not be negative"),
        ({"key": 1.5}, TypeError, "key must be a str, bytes or an int, not 1.5"),
        ({"key": True}, TypeError, "key must be"),
        ({"avoid": A}, TypeError, r"avoid must be an iterable of Backend: did you mean \{Backend"),
        ({"avoid": "a:1"}, TypeError, "avoid must be an iterable of Backend, not 'a:1'"),
        ({"avoid": None}, TypeError, "avoid must be an iterable"),
        ({"avoid": 3}, TypeError, "avoid must be an iterable"),
        ({"avoid": ["a:1"]}, TypeError, "avoid: each element must be a Backend, not 'a:1'"),
        ({"avoid": [Backend]}, TypeError, r"avoid: each element must be a Backend.*a class"),
        ({"label": 3}, TypeError, "label must be a str, not 3"),
        ({"label": b"x"}, TypeError, "label must be a str"),
    ],
)
def test_wrong_options(options: dict[str, Any], kind: type[Exception], words: str) -> None:
    """A wrong option is an error that names the argument."""
    with pytest.raises(kind, match=f"^{words}"):
        make_request(**options)
    with pytest.raises(kind, match=f"^{words}"):
        ClaimRequest(**options)


def test_a_request_is_immutable() -> None:
    """A request cannot be changed while its claim waits."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        ClaimRequest(key=1).key = 2  # type: ignore[misc]
