"""The checks of arguments, and the values that policies and backends refuse."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable
from typing import Any

import attrs
import pytest

import qorb_trio
from qorb_trio import Backend, Ejection, Policy, SetConfig, _validation as _check
from qorb_trio._model.backend import format_host_port, parse_host_port

COUNTS = [(Policy, "spares_wanted", 0), (Policy, "max_slots", 1), (SetConfig, "max_count", 1)]
#: The counts that may be unlimited, each with its least value.
LIMITS = [
    (Policy, "max_waiting", 0),
    (SetConfig, "max_uses", 1),
    (SetConfig, "max_connecting", 1),
    (Ejection, "failures", 1),
]
#: Each part of a whole: whether zero is allowed.
FRACTIONS = [(Ejection, "failure_rate", False), (Ejection, "max_ejected", True)]
#: Each duration: whether zero is allowed, and whether it may be endless.
SECONDS = [
    (Policy, "rebalance_interval", False, True),
    (Policy, "claim_timeout", True, True),
    (Policy, "drain_timeout", True, True),
    (Policy, "leak_warning_after", False, True),
    (Policy, "fail_fast_after", True, True),
    (Policy, "queue_target", False, True),
    (SetConfig, "min_connection_backoff", False, False),
    (SetConfig, "max_connection_backoff", False, True),
    (SetConfig, "spread", True, False),
    (SetConfig, "health_interval", False, True),
    (SetConfig, "health_check_timeout", False, True),
    (SetConfig, "connect_timeout", False, True),
    (SetConfig, "disconnect_timeout", True, True),
    (SetConfig, "max_lifetime", False, True),
    (SetConfig, "idle_timeout", False, True),
    (SetConfig, "slow_start", True, False),
    (Ejection, "base_time", False, False),
    (Ejection, "max_time", False, True),
]


def outcome(make: Callable[[], object]) -> type[Exception] | None:
    """Return the type of the exception that `make` raises, if any."""
    try:
        make()
    except (TypeError, ValueError) as exc:
        return type(exc)
    return None


def test_no_field_is_forgotten() -> None:
    """Every field of the classes is in the tables of these tests."""
    named = {(kind, name) for kind, name, *_ in [*COUNTS, *LIMITS, *FRACTIONS, *SECONDS]}
    kinds = (Policy, SetConfig, Ejection)
    fields = {(kind, field.name) for kind in kinds for field in attrs.fields(kind)}
    assert fields - named == {(Policy, "set_config"), (Policy, "ejection")}


@pytest.mark.parametrize("value", [True, 1.0, "1", None, math.nan])
@pytest.mark.parametrize(("kind", "name", "least"), COUNTS)
def test_counts_of_the_wrong_type(kind: Any, name: str, least: int, value: object) -> None:
    """A count that is no int, a bool among them, is a `TypeError` that names the field."""
    with pytest.raises(TypeError, match=f"^{name} "):
        kind(**{name: value})


@pytest.mark.parametrize(("kind", "name", "least"), COUNTS)
def test_counts_too_small(kind: Any, name: str, least: int) -> None:
    """The least count is allowed, and one less is a `ValueError` that names the field."""
    assert getattr(kind(**{name: least}), name) == least
    with pytest.raises(ValueError, match=f"^{name} "):
        kind(**{name: least - 1})


@pytest.mark.parametrize("value", [True, 1.0, "1", None, math.nan, -math.inf])
@pytest.mark.parametrize(("kind", "name", "least"), LIMITS)
def test_limits_of_the_wrong_type(kind: Any, name: str, least: int, value: object) -> None:
    """A limit that is neither an int nor infinite is a `TypeError` that names the field."""
    with pytest.raises(TypeError, match=f"^{name} "):
        kind(**{name: value})


@pytest.mark.parametrize(("kind", "name", "least"), LIMITS)
def test_the_ends_of_limits(kind: Any, name: str, least: int) -> None:
    """The least limit and infinity are allowed, and what lies beyond either is refused."""
    for fine in (least, sys.maxsize, math.inf):
        assert getattr(kind(**{name: fine}), name) == fine
    for wrong in (least - 1, sys.maxsize + 1, 10**400):
        with pytest.raises(ValueError, match=f"^{name} "):
            kind(**{name: wrong})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, TypeError),
        ("1", TypeError),
        (None, TypeError),
        (math.nan, ValueError),
        (-0.1, ValueError),
        (1.1, ValueError),
        (math.inf, ValueError),
        (10**400, ValueError),
    ],
)
@pytest.mark.parametrize(("kind", "name", "zero"), FRACTIONS)
def test_wrong_fractions(
    kind: Any, name: str, zero: bool, value: object, expected: type[Exception]
) -> None:
    """A number that is no part of a whole raises what fits, naming the field."""
    with pytest.raises(expected, match=f"^{name} "):
        kind(**{name: value})


@pytest.mark.parametrize(("kind", "name", "zero"), FRACTIONS)
def test_the_ends_of_fractions(kind: Any, name: str, zero: bool) -> None:
    """The whole is allowed, and nothing at all only where there is a meaning to it."""
    assert outcome(lambda: kind(**{name: 1})) is None
    assert outcome(lambda: kind(**{name: 0})) is (None if zero else ValueError)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, TypeError),
        ("1", TypeError),
        (None, TypeError),
        (1j, TypeError),
        (math.nan, ValueError),
        (-1, ValueError),
        (-math.inf, ValueError),
    ],
)
@pytest.mark.parametrize("field", SECONDS)
def test_wrong_seconds(field: Any, value: object, expected: type[Exception]) -> None:
    """A wrong duration raises what fits, naming the field."""
    kind, name, *_ = field
    with pytest.raises(expected, match=f"^{name} "):
        kind(**{name: value})


@pytest.mark.parametrize(("base", "longest", "fine"), [(300, 300, True), (301, 300, False)])
def test_the_first_ejection_is_not_the_longer(base: int, longest: int, fine: bool) -> None:
    """The first ejection may not be longer than the longest."""
    assert outcome(lambda: Ejection(base_time=base, max_time=longest)) is (
        None if fine else ValueError
    )


@pytest.mark.parametrize(("kind", "name", "zero", "endless"), SECONDS)
def test_the_ends_of_seconds(kind: Any, name: str, zero: bool, endless: bool) -> None:
    """Zero is refused where it would spin, and infinity where there is no sense in it."""
    assert outcome(lambda: kind(**{name: 0})) is (None if zero else ValueError)
    assert outcome(lambda: kind(**{name: math.inf})) is (None if endless else ValueError)


@pytest.mark.parametrize("field", SECONDS)
def test_more_seconds_than_a_float_can_hold(field: Any) -> None:
    """A duration with which one cannot calculate is refused, naming the field."""
    kind, name, *_ = field
    with pytest.raises(ValueError, match=f"^{name} "):
        kind(**{name: 10**400})


@pytest.mark.parametrize(
    ("shortest", "longest", "fine"), [(1, 1, True), (1, 2, True), (2, 1, False), (31, 30, False)]
)
def test_the_shortest_back_off_is_not_the_longer(shortest: int, longest: int, fine: bool) -> None:
    """The shortest back-off may not be longer than the longest."""

    def make() -> SetConfig:
        return SetConfig(min_connection_backoff=shortest, max_connection_backoff=longest)

    if fine:
        assert make().max_connection_backoff == longest
    else:
        with pytest.raises(ValueError, match=r"min_connection_backoff.*max_connection_backoff"):
            make()


@pytest.mark.parametrize(("value", "hint"), [(SetConfig, "did you mean"), ({}, ""), (None, "")])
def test_instances(value: object, hint: str) -> None:
    """A class in the place of its instance is met with a hint."""
    with pytest.raises(TypeError, match=f"^set_config must be a SetConfig.*{hint}"):
        Policy(set_config=value)  # type: ignore[arg-type]
    _check.instance("it", SetConfig(), SetConfig)


@pytest.mark.parametrize("value", [Ejection, {}, False, 0.5])
def test_ejection_is_an_instance_or_none(value: object) -> None:
    """Anything but an `Ejection` or `None` is a `TypeError` that names the field."""
    assert Policy(ejection=None).ejection is None
    assert Policy().ejection == Ejection()
    with pytest.raises(TypeError, match=r"^ejection must be an Ejection.*(None|did you mean)"):
        Policy(ejection=value)  # type: ignore[arg-type]


def test_defaults_of_the_contract() -> None:
    """All new features are off by default, except ejection."""
    policy = Policy()
    assert (policy.max_waiting, policy.fail_fast_after, policy.queue_target) == (math.inf,) * 3
    config = policy.set_config
    assert (config.max_lifetime, config.idle_timeout, config.slow_start) == (math.inf, math.inf, 0)
    assert (config.max_uses, config.max_connecting) == (math.inf, math.inf)
    assert attrs.astuple(Ejection()) == (5, 0.5, 5, 300, 0.5)


def test_j_the_help_shows_defaults_that_can_be_read() -> None:
    """Signatures show ``Policy()`` and ``SetConfig()``, neither five lines nor NOTHING."""
    assert repr(Policy()) == "Policy()"
    assert "policy: 'Policy' = Policy()," in str(inspect.signature(qorb_trio.open_pool))
    shown = str(inspect.signature(Policy))
    assert "ejection: 'Ejection | None' = Ejection()" in shown
    assert "set_config: 'SetConfig' = SetConfig()" in shown
    assert "NOTHING" not in shown


def test_a_repr_shows_what_differs_and_can_be_evaluated() -> None:
    """A repr has the fields that are not at their defaults, and is code that makes an equal."""
    policy = Policy(
        max_slots=3, ejection=Ejection(failures=7), set_config=SetConfig(max_lifetime=60)
    )
    expected = (
        "Policy(max_slots=3, ejection=Ejection(failures=7), set_config=SetConfig(max_lifetime=60))"
    )
    assert repr(policy) == expected
    assert eval(expected) == policy


@pytest.mark.parametrize(
    ("address", "host", "port", "name"),
    [
        (("a.test", 80), "a.test", 80, "a.test:80"),
        (("::1", 65535), "::1", 65535, "[::1]:65535"),
        ("/run/db.sock", None, None, "/run/db.sock"),
        ("/run/db:80", None, None, "/run/db:80"),
    ],
)
def test_backends(address: Any, host: str | None, port: int | None, name: str) -> None:
    """A backend knows its host and port, or its path, and has a name by default."""
    backend = Backend(address)
    assert (backend.host, backend.port, backend.name) == (host, port, name)


@pytest.mark.parametrize(
    ("text", "pair"), [("a:1", ("a", 1)), ("[::1]:80", ("::1", 80)), ("1.2.3.4:5", ("1.2.3.4", 5))]
)
def test_host_and_port_there_and_back(text: str, pair: tuple[str, int]) -> None:
    """A pair written as ``host:port`` is read as the same pair."""
    assert parse_host_port(text) == pair
    assert format_host_port(*pair) == text


@pytest.mark.parametrize("text", ["", "a", ":80", "a:", "a:x", "::1:80", "a:-1", "a:²", "[]:1"])
def test_no_host_and_port(text: str) -> None:
    """Any text but ``host:port`` is a `ValueError` that shows it."""
    with pytest.raises(ValueError, match=r"host:port|brackets"):
        parse_host_port(text)
