"""The limit on spares after an outage of all backends."""

from __future__ import annotations

import math

import trio
from trio.testing import MockClock

from qorb_trio import Backend, FixedResolver, Policy, SetConfig, open_pool
from qorb_trio._planning.recovery import HOLD, MAX_VIEWS, Recovery
from qorb_trio.testing import FakeConnector

from .situations import View


def views(online: int, failing: int) -> list[View]:
    """Return backends with a connection, and backends that fail."""
    return [View(idle=1) for _ in range(online)] + [View(is_failing=True) for _ in range(failing)]


def test_without_an_outage_nothing_is_limited() -> None:
    """Backends that fail while others work limit nothing, nor does a pool's beginning."""
    recovery = Recovery()
    assert recovery.limit(8, [], 0) == 8
    assert recovery.limit(8, [View(), View(is_failing=True)], 0) == 8
    assert recovery.limit(8, views(1, 3), 1) == 8
    assert recovery.ends_at == math.inf


def test_after_an_outage_spares_are_those_of_the_backends_that_are_online() -> None:
    """For a second, spares are limited to the share of the backends that are online."""
    recovery = Recovery()
    assert recovery.limit(8, views(0, 4), 10) == 8
    assert recovery.limit(8, views(1, 3), 11) == 2
    assert recovery.ends_at == 11 + HOLD
    assert recovery.limit(8, views(2, 2), 11.5) == 4
    assert recovery.limit(1, views(1, 3), 11.6) == 1
    assert recovery.limit(0, views(1, 3), 11.7) == 0
    assert recovery.limit(8, views(1, 3), 11 + HOLD) == 8
    assert recovery.limit(8, views(1, 3), 20) == 8


def test_during_an_outage_spares_are_those_of_untried_backends() -> None:
    """While everything fails, a backend that is tried next gets its share of the dials."""
    recovery = Recovery()
    assert recovery.limit(16, views(0, 4), 10) == 16
    untried_one = [View(), *views(0, 31)]
    assert recovery.limit(16, untried_one, 11) == 1
    assert recovery.limit(16, [*untried_one[1:], *[View()] * 31], 11) == 8
    assert recovery.limit(0, untried_one, 11) == 0
    assert recovery.limit(16, [View(), View()], 12) == 16
    assert recovery.limit(16, [], 12) == 16
    assert recovery.ends_at == math.inf


def test_when_all_are_back_the_limit_ends() -> None:
    """The limit ends as soon as no backend fails any more."""
    recovery = Recovery()
    recovery.limit(8, views(0, 2), 10)
    assert recovery.limit(8, views(2, 0), 11) == 8
    assert recovery.limit(8, views(1, 1), 11.1) == 8


def test_another_outage_begins_anew() -> None:
    """A limit ends with the last connection, and the next recovery has its own."""
    recovery = Recovery()
    recovery.limit(8, views(0, 2), 10)
    assert recovery.limit(8, views(1, 1), 11) == 4
    assert recovery.limit(8, views(0, 2), 11.1) == 8
    assert recovery.ends_at == math.inf
    assert recovery.limit(8, views(1, 1), 15) == 4
    assert recovery.ends_at == 15 + HOLD


def test_with_very_many_backends_nothing_is_limited() -> None:
    """The views of a pool with slots at hundreds of backends are not looked at."""
    recovery = Recovery()
    assert recovery.limit(8, views(0, MAX_VIEWS + 1), 10) == 8
    assert recovery.limit(8, views(1, MAX_VIEWS), 11) == 8
    assert recovery.ends_at == math.inf


async def test_the_rest_of_the_spares_comes_when_the_limit_ends(autojump_clock: MockClock) -> None:
    """A second after an outage the pool has all of its spares, though most backends still fail."""
    connector = FakeConnector(connect_delay=0.3)
    backends = [Backend((f"b{i}.test", 1), name=f"b{i}") for i in range(4)]
    patient = SetConfig(min_connection_backoff=5, max_connection_backoff=5, spread=0)
    policy = Policy(spares_wanted=8, max_slots=16, set_config=patient)
    for backend in backends:
        connector.fail(backend)
    async with (
        trio.open_nursery() as nursery,
        open_pool(nursery, FixedResolver(backends), connector, policy=policy),
    ):
        await trio.sleep(4)
        connector.heal(backends[0])
        await trio.sleep(2)
        at_first = len(connector.open)
        await trio.sleep(HOLD)
        assert 1 <= at_first <= 2
        assert len(connector.open) == 8
