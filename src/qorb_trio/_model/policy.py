"""`Policy` and `SetConfig`: the numbers that a user may set."""

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


def _seconds(
    *, zero: bool = True, endless: bool = True
) -> Callable[[Any, attrs.Attribute[float], float], None]:
    def validate(_: object, field: attrs.Attribute[float], value: float) -> None:
        _check.seconds(field.name, value, zero=zero, endless=endless)

    return validate


@final
@attrs.frozen
class SetConfig:
    """What holds for the connections of each single backend.

    All durations are in seconds. ``math.inf`` switches an interval off and makes a
    timeout endless. The defaults that qorb has too are qorb's.

    Raises:
      TypeError, ValueError: naming the field that is wrong.
    """

    max_count: int = attrs.field(default=16, validator=_count(1))
    """At most so many connections to one backend."""

    min_connection_backoff: float = attrs.field(
        default=0.02, validator=_seconds(zero=False, endless=False)
    )
    """The delay before the first retry; it doubles with each failure in a row."""

    max_connection_backoff: float = attrs.field(default=30.0, validator=_seconds(zero=False))
    """The longest delay between two tries."""

    spread: float = attrs.field(default=0.02, validator=_seconds(endless=False))
    """Up to so many random seconds are added to each delay (at the longest delay:
    taken away), so that clients and slots do not retry in step."""

    health_interval: float = attrs.field(default=30.0, validator=_seconds(zero=False))
    """A connection that has been idle for so long is checked."""

    health_check_timeout: float = attrs.field(default=3.0, validator=_seconds(zero=False))
    """The bound on each single ``is_valid``, ``on_acquire`` and ``on_recycle``."""

    connect_timeout: float = attrs.field(default=10.0, validator=_seconds(zero=False))
    """The bound on each single ``connect``. If it is endless, a connect that seems to hang is
    still begun anew, after `max_connection_backoff` or some more."""

    disconnect_timeout: float = attrs.field(default=1.0, validator=_seconds())
    """The bound on each single ``disconnect``; it is cancelled after that."""

    def __attrs_post_init__(self) -> None:
        if self.min_connection_backoff > self.max_connection_backoff:
            raise ValueError(
                f"min_connection_backoff ({self.min_connection_backoff!r}) must not be greater"
                f" than max_connection_backoff ({self.max_connection_backoff!r})"
            )


def _set_config(_: object, field: attrs.Attribute[SetConfig], value: SetConfig) -> None:
    _check.instance(field.name, value, SetConfig)


@final
@attrs.frozen
class Policy:
    """The numbers of a pool: how many slots, how long to wait, how often to check.

    All durations are in seconds. ``math.inf`` switches an interval off and makes a
    timeout endless. The defaults that qorb has too are qorb's. Derive a variant with
    `attrs.evolve`.

    Raises:
      TypeError, ValueError: naming the field that is wrong.
    """

    spares_wanted: int = attrs.field(default=8, validator=_count(0))
    """How many connections the pool tries to keep ready beyond those in use. More
    than `max_slots` means "all"."""

    max_slots: int = attrs.field(default=16, validator=_count(1))
    """At most so many connections, opening and closing ones included."""

    rebalance_interval: float = attrs.field(default=60.0, validator=_seconds(zero=False))
    """How often surplus connections are closed and shares are put right."""

    claim_timeout: float = attrs.field(default=30.0, validator=_seconds())
    """How long a claim may take that names no timeout of its own. 0: never wait."""

    drain_timeout: float = attrs.field(default=5.0, validator=_seconds())
    """How long outstanding claims may go on when the pool is left normally."""

    set_config: SetConfig = attrs.field(factory=SetConfig, validator=_set_config)
    """What holds for each single backend."""

    leak_warning_after: float = attrs.field(default=math.inf, validator=_seconds(zero=False))
    """A claim that is held for so long is logged, once, with the stack of the task that
    made it. Off by default."""
