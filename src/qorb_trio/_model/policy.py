"""`Policy`, `SetConfig` and `Ejection`: the numbers that a user may set."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, final

import attrs

from .. import _validation as _check


def _count(least: int) -> Callable[[Any, attrs.Attribute[int], int], None]:
    def validate(_: object, field: attrs.Attribute[int], value: int) -> None:
        _check.count(field.name, value, least=least)

    return validate


def _limit(least: int) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    def validate(_: object, field: attrs.Attribute[Any], value: object) -> None:
        _check.limit(field.name, value, least=least)

    return validate


def _fraction(*, zero: bool) -> Callable[[Any, attrs.Attribute[float], float], None]:
    def validate(_: object, field: attrs.Attribute[float], value: float) -> None:
        _check.fraction(field.name, value, zero=zero)

    return validate


def _seconds(
    *, zero: bool = True, endless: bool = True
) -> Callable[[Any, attrs.Attribute[float], float], None]:
    def validate(_: object, field: attrs.Attribute[float], value: float) -> None:
        _check.seconds(field.name, value, zero=zero, endless=endless)

    return validate


def _in_order(values: object, lesser: str, greater: str) -> None:
    least, most = getattr(values, lesser), getattr(values, greater)
    if least > most:
        raise ValueError(f"{lesser} ({least!r}) must not be greater than {greater} ({most!r})")


def _short_repr(values: attrs.AttrsInstance) -> str:
    """Show the fields that differ from their defaults: signatures and errors stay readable."""
    shown = [
        f"{field.name}={value!r}"
        for field in attrs.fields(type(values))
        if (value := getattr(values, field.name)) != field.default
    ]
    return f"{type(values).__name__}({', '.join(shown)})"


@final
@attrs.frozen(repr=False)
class SetConfig:
    """The numbers that hold for the connections of each single backend.

    All durations are in seconds. ``math.inf`` switches an interval or a limit off and makes
    a timeout endless. The defaults that qorb has too are qorb's. The repr shows the fields
    that differ from their defaults.

    Raises:
      TypeError, ValueError: naming the field that is wrong.
    """

    max_count: int = attrs.field(default=16, validator=_count(1))
    """Maximum number of connections to one backend."""

    min_connection_backoff: float = attrs.field(
        default=0.02, validator=_seconds(zero=False, endless=False)
    )
    """Seconds before the first retry. The delay doubles with each failure in a row."""

    max_connection_backoff: float = attrs.field(default=30.0, validator=_seconds(zero=False))
    """The longest delay between two tries, in seconds."""

    spread: float = attrs.field(default=0.02, validator=_seconds(endless=False))
    """The minimum width, in seconds, of the random part of each delay, so that clients and
    slots do not retry in step. The random part is at least a quarter of the delay."""

    health_interval: float = attrs.field(default=30.0, validator=_seconds(zero=False))
    """A connection that has been idle for this many seconds is checked. The checks of
    connections that became idle together are spread over up to three quarters of the interval that
    follows."""

    health_check_timeout: float = attrs.field(default=3.0, validator=_seconds(zero=False))
    """The bound on each single ``is_valid``, ``on_acquire`` and ``on_recycle``, in seconds."""

    connect_timeout: float = attrs.field(default=10.0, validator=_seconds(zero=False))
    """The bound on each single ``connect``, in seconds. If it is endless, a connect that seems
    to hang is still abandoned and begun anew, after at least `max_connection_backoff`."""

    disconnect_timeout: float = attrs.field(default=1.0, validator=_seconds())
    """The bound on each single ``disconnect``, in seconds; it is cancelled after that."""

    max_lifetime: float = attrs.field(default=math.inf, validator=_seconds(zero=False))
    """The maximum age of a connection, in seconds. Each connection is replaced at a random
    age between three quarters of this and all of it, the replacement first, and a connection
    of this age is never lent. Set it where servers or middleboxes cut old connections (to
    less than their limit), or to follow changes behind a load balancer. Off by default;
    1,800 is a good start."""

    idle_timeout: float = attrs.field(default=math.inf, validator=_seconds(zero=False))
    """A spare that nobody has used for this many seconds is replaced if it is wanted, and
    closed if not. Set it to less than the idle time-out of the server or of a load balancer,
    where the close cannot be seen in time. Off by default; start with half of the server's
    time-out."""

    max_uses: float = attrs.field(default=math.inf, validator=_limit(1))
    """The maximum number of claims that one connection serves. It is replaced after a random
    number of uses between three quarters of this and all of it. Set it where a server's
    session grows with each use. An `int`, or ``math.inf`` (the default); start with 1,000."""

    max_connecting: float = attrs.field(default=math.inf, validator=_limit(1))
    """Maximum number of concurrent dials to one backend, probes included. Set it where a
    connect is expensive for the server (TLS, authentication). An `int`, or ``math.inf`` (the
    default); start with 2."""

    slow_start: float = attrs.field(default=0.0, validator=_seconds(endless=False))
    """A backend that comes online takes its weight from 10 % to 100 % in ten steps over this
    many seconds. It changes which backend serves a claim, not how many connections there are.
    Set it where servers need warm caches. 0 (the default) switches it off; start with 30."""

    def __attrs_post_init__(self) -> None:
        _in_order(self, "min_connection_backoff", "max_connection_backoff")

    __repr__ = _short_repr


@final
@attrs.frozen(repr=False)
class Ejection:
    """The rules by which a backend that fails its claims gets no more claims for a while.

    A claim is good if its body ended without an exception, and bad if `Claim.report` or
    `Connector.is_failure` says so; otherwise it does not count. A backend whose claims are bad
    is *ejected*: its connections are kept, but not lent, and nothing is dialled. After a while
    one *trial* claim is sent to it. If that is good, the backend is back; if it is bad, the
    next ejection is twice as long. The rules follow Envoy's outlier detection and Finagle's
    failure accrual.

    The defaults suit backends that are interchangeable. All durations are in seconds. The
    repr shows the fields that differ from their defaults.

    Raises:
      TypeError, ValueError: naming the field that is wrong.
    """

    failures: float = attrs.field(default=5, validator=_limit(1))
    """Eject after this many bad claims in a row. An `int`; ``math.inf`` switches the rule off.
    Fewer react faster, but a few bad requests then eject a good backend."""

    failure_rate: float = attrs.field(default=0.5, validator=_fraction(zero=False))
    """Eject if this part of the claims within 30 seconds is bad, if there are at least 20 of
    them. From just above 0 to 1, where 1 means all of them."""

    base_time: float = attrs.field(default=5.0, validator=_seconds(zero=False, endless=False))
    """The longest first ejection, in seconds. It doubles with each ejection soon after another,
    and the time drawn is between half of it and all of it."""

    max_time: float = attrs.field(default=300.0, validator=_seconds(zero=False))
    """The longest ejection, in seconds."""

    max_ejected: float = attrs.field(default=0.5, validator=_fraction(zero=True))
    """The maximum part of the backends of one priority that may be ejected or failing for
    another one to be ejected, itself included. 0 ejects none. 1 allows all but the last one
    that works. The only backend is never ejected."""

    def __attrs_post_init__(self) -> None:
        _in_order(self, "base_time", "max_time")

    __repr__ = _short_repr


def _ejection(_: object, field: attrs.Attribute[Any], value: Ejection | None) -> None:
    if value is not None:
        _check.instance(field.name, value, Ejection, "or None, to switch it off")


def _set_config(_: object, field: attrs.Attribute[SetConfig], value: SetConfig) -> None:
    _check.instance(field.name, value, SetConfig)


@final
@attrs.frozen(repr=False)
class Policy:
    """The numbers of a pool: how many slots, how long to wait, how often to check.

    All durations are in seconds. ``math.inf`` switches an interval or a limit off and makes
    a timeout endless. The defaults that qorb has too are qorb's. Derive a variant with
    `attrs.evolve`. The repr shows the fields that differ from their defaults.

    Raises:
      TypeError, ValueError: naming the field that is wrong.
    """

    spares_wanted: int = attrs.field(default=8, validator=_count(0))
    """The number of connections that the pool tries to keep ready beyond those in use. More
    than `max_slots` means "all"."""

    max_slots: int = attrs.field(default=16, validator=_count(1))
    """Maximum number of connections, opening and closing ones included."""

    rebalance_interval: float = attrs.field(default=60.0, validator=_seconds(zero=False))
    """Seconds between two rebalances, which close surplus connections and put the shares of
    the backends right."""

    claim_timeout: float = attrs.field(default=30.0, validator=_seconds())
    """The timeout, in seconds, of a claim that names none of its own. 0: never wait."""

    drain_timeout: float = attrs.field(default=5.0, validator=_seconds())
    """Seconds for which outstanding claims may go on when the pool is left normally."""

    leak_warning_after: float = attrs.field(default=math.inf, validator=_seconds(zero=False))
    """A claim that is held for this many seconds is logged, once, with the stack of the task
    that made it. Off by default."""

    max_waiting: float = attrs.field(default=math.inf, validator=_limit(0))
    """Maximum number of waiting claimants. The next one gets `PoolOverloadedError` at once;
    with 0, nobody waits. Set it where a caller can use a quick refusal better than a late
    answer. An `int`, or ``math.inf`` (the default); start with the number of claims that the
    pool serves within the longest useful wait."""

    fail_fast_after: float = attrs.field(default=math.inf, validator=_seconds())
    """Once every known backend has been failing or hanging (or there has been none) for this
    many seconds, claims fail at once with the error that their timeout would have given. It
    ends with the first connection. Set it where callers have something else to offer while the
    service is down. Off by default; start with 5."""

    queue_target: float = attrs.field(default=math.inf, validator=_seconds(zero=False))
    """The longest wait, in seconds, that is acceptable for long. If even the shortest wait
    within twenty times this is longer, the pool is overloaded, and refuses claimants that have
    waited for more than twice this with `PoolOverloadedError`, until the queue is empty. Short
    bursts are served in full. The rule is the CoDel of Facebook's "Fail at Scale" (2015). Set
    it where an overloaded pool should serve some quickly, and not all late. Off by default;
    start with 0.05, or half of the longest useful wait."""

    ejection: Ejection | None = attrs.field(default=Ejection(), validator=_ejection)
    """The rules by which a backend that fails its claims gets no more claims for a while; on
    by default. `None` switches ejection off, as is right where a failed claim says nothing about
    its backend."""

    set_config: SetConfig = attrs.field(default=SetConfig(), validator=_set_config)
    """The numbers that hold for each single backend."""

    __repr__ = _short_repr
