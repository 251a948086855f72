"""`Expiry`: when a connection is due and when it is expired, in virtual time, without a pool."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given, strategies as st

from qorb_trio import SetConfig
from qorb_trio._slots.expiry import Expiry, recycle_at

CONNECT = 0.05


class Fixed(random.Random):
    """Draws always the same number."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self._value = value

    def random(self) -> float:
        """The number."""
        return self._value


def born(
    draw: float = 0.0, *, at: float = 0.0, connect_time: float = 0.0, **limits: float
) -> Expiry:
    """The expiry of a connection with a given draw."""
    expiry = Expiry.draw(SetConfig(**limits), at, connect_time, Fixed(draw))  # type: ignore[arg-type]
    assert expiry is not None
    return expiry


def due(expiry: Expiry, now: float, uses: int = 0, unused_since: float = math.inf) -> str | None:
    """Why a connection, claimed if not told otherwise, is due."""
    return expiry.due_reason(now, uses=uses, unused_since=unused_since)


def test_without_limits_there_is_nothing() -> None:
    """Without a limit nothing is kept, and no random number is drawn."""
    rng = random.Random(3)
    before = rng.getstate()
    assert Expiry.draw(SetConfig(), 0, 0, rng) is None
    assert rng.getstate() == before


# Age.


@pytest.mark.parametrize(("draw", "due_at"), [(0.0, 110), (0.5, 97.5), (1.0, 85)])
def test_a_connection_is_due_in_the_last_quarter_of_its_life(draw: float, due_at: float) -> None:
    """A connection is due at L (1 - u/4) after the start of its dial, and expired at L."""
    expiry = born(draw, at=10, max_lifetime=100)
    assert expiry.next_due_at(math.inf) == due_at
    assert due(expiry, due_at - 0.001) is None
    assert due(expiry, due_at) == "lifetime"
    assert not expiry.is_expired(109.999)
    assert expiry.is_expired(110)


@pytest.mark.parametrize(
    ("connect_time", "latest"), [(0.05, 99.85), (5, 85), (8, 76), (9, 75), (1000, 75)]
)
def test_the_replacement_has_time_to_connect(connect_time: float, latest: float) -> None:
    """A connection is due three connect times before it expires, but not before 0.75 L, and
    the times of several are spread between the two."""
    dues = [
        born(draw, connect_time=connect_time, max_lifetime=100).next_due_at(math.inf)
        for draw in (0.0, 0.5, 1.0)
    ]
    assert dues == pytest.approx([latest, (latest + 75) / 2, 75])


def life(rng: random.Random, until: float, lifetime: float) -> tuple[list[float], int]:
    """One spare that is replaced each time that it is due: the ages at close, and the connects."""
    ages, connects, now = [], 0, 0.0
    while now < until:
        expiry = Expiry.draw(SetConfig(max_lifetime=lifetime), now, CONNECT, rng)
        assert expiry is not None
        connects += 1
        connected = expiry.next_due_at(math.inf) + CONNECT  # its replacement is
        assert not expiry.is_expired(connected)
        ages.append(connected - now)
        now = connected - CONNECT
    return ages, connects


def test_four_spares_for_a_thousand_seconds() -> None:
    """With L = 100 every age at close is in [75, 100], and there are 40 to 56 connects."""
    for seed in range(50):
        rng = random.Random(seed)
        lives = [life(rng, 1000, 100) for _ in range(4)]
        ages = [age for one, _ in lives for age in one]
        assert 75 <= min(ages) <= max(ages) <= 100
        assert 40 <= sum(connects for _, connects in lives) <= 56


def test_one_busy_slot_for_a_thousand_seconds() -> None:
    """A slot that is claimed all the time needs 10 to 14 connections with L = 100."""
    for seed in range(50):
        _, connects = life(random.Random(seed), 1000, 100)
        assert 10 <= connects <= 14


def test_many_pools_do_not_reconnect_in_step() -> None:
    """Of 16,000 connections begun within 5 s with L = half an hour, no second sees more than 70
    replaced."""
    rng = random.Random(1)
    seconds: Counter[int] = Counter()
    for _ in range(16_000):
        expiry = Expiry.draw(SetConfig(max_lifetime=1800), rng.uniform(0, 5), CONNECT, rng)
        assert expiry is not None
        seconds[int(expiry.next_due_at(math.inf))] += 1
    assert max(seconds.values()) <= 70


def test_ff43_lifetimes_are_drawn_once() -> None:
    """To look at a connection again and again does not make it due earlier."""
    expiry = born(0.25, max_lifetime=100)
    assert {expiry.next_due_at(math.inf) for _ in range(1000)} == {93.75}
    assert not any(due(expiry, now / 10) for now in range(937))


# Uses.


@pytest.mark.parametrize(
    ("most", "draw", "first"),
    [(1, 0.0, 1), (1, 0.99, 1), (2, 0.99, 2), (100, 0.0, 100), (100, 0.5, 88), (100, 0.999, 76)],
)
def test_uses(most: int, draw: float, first: int) -> None:
    """A connection is due at ⌈n (1 - u/4)⌉ uses and used up at its n-th return."""
    expiry = born(draw, max_uses=most)
    assert due(expiry, 1e9, uses=first - 1) is None
    assert due(expiry, 0, uses=first) == "uses"
    assert not expiry.is_used_up(most - 1)
    assert expiry.is_used_up(most)
    assert expiry.next_due_at(0) == math.inf
    assert not expiry.is_expired(1e9)


# Idleness.


def test_an_unused_spare_is_due() -> None:
    """A spare is due when it has been unused for the timeout, and a claimed one is not."""
    expiry = born(idle_timeout=60)
    assert expiry.next_due_at(40) == 100
    assert due(expiry, 99.9, unused_since=40) is None
    assert due(expiry, 100, unused_since=40) == "idle"
    assert due(expiry, 1e9) is None
    assert expiry.next_due_at(math.inf) == math.inf


# Recycling.


def test_recycling_makes_due() -> None:
    """The earliest of several recyclings counts, and a recycled connection does not expire."""
    expiry = Expiry.recycled(0, 50)
    expiry.recycle(70)
    assert expiry.next_due_at(0) == 50
    assert due(expiry, 49.9) is None
    assert due(expiry, 50, uses=10**9, unused_since=0) == "recycle"
    assert not expiry.is_expired(1e9)
    assert not expiry.is_used_up(10**9)
    expiry.recycle(30)
    assert expiry.next_due_at(0) == 30


def test_recycling_beside_a_lifetime() -> None:
    """The first of the two makes a connection due, and names the reason."""
    expiry = born(max_lifetime=100)
    expiry.recycle(50)
    assert (due(expiry, 50), expiry.next_due_at(math.inf)) == ("recycle", 50)
    expiry = born(1.0, max_lifetime=100)
    expiry.recycle(80)
    assert (due(expiry, 75), expiry.next_due_at(math.inf)) == ("lifetime", 75)


def test_recyclings_are_spread() -> None:
    """Eight connections that are recycled over a minute are due within it, one by one."""
    rng = random.Random(4)
    times = sorted(recycle_at(100, 60, rng) for _ in range(1000))
    assert 100 <= times[0] < 101
    assert 159 < times[-1] <= 160
    assert abs(times[500] - 130) < 4
    assert recycle_at(100, 0, rng) == 100


# All together.


def test_other_limits_keep_the_draw() -> None:
    """After `reconfigure` the same connection has its place in the new range."""
    expiry = born(0.5, max_lifetime=100, max_uses=100)
    expiry.recycle(1000)
    expiry.update(SetConfig(max_lifetime=1000, idle_timeout=5), 0.0)
    assert expiry.next_due_at(math.inf) == 875
    assert expiry.next_due_at(10) == 15
    assert due(expiry, 20, uses=10**6) is None
    assert expiry.expires_at == 1000
    expiry.update(SetConfig(), 0.0)
    assert expiry.next_due_at(0) == 1000, "it is still to be recycled"


@given(
    draw=st.floats(0, 1, exclude_max=True),
    lifetime=st.floats(1e-3, 1e9) | st.just(math.inf),
    idle=st.floats(1e-3, 1e9) | st.just(math.inf),
    most=st.integers(1, 10**12) | st.just(math.inf),
    at=st.floats(0, 1e9),
    connect_time=st.floats(0, 1e9),
    unused_since=st.floats(0, 1e9) | st.just(math.inf),
    uses=st.integers(0, 10**13),
)
def test_due_comes_before_expired(
    *,
    draw: float,
    lifetime: float,
    idle: float,
    most: float,
    at: float,
    connect_time: float,
    unused_since: float,
    uses: int,
) -> None:
    """A connection that is expired or used up is due too, and it is due at `next_due_at`."""
    limits = SetConfig(max_lifetime=lifetime, idle_timeout=idle, max_uses=most)
    expiry = Expiry(limits, at, connect_time, draw)
    if expiry.is_used_up(uses):
        assert due(expiry, at, uses) is not None
    if lifetime < math.inf:
        assert due(expiry, expiry.expires_at) == "lifetime"
    if (time := expiry.next_due_at(unused_since)) < math.inf:
        assert due(expiry, time, unused_since=unused_since) in {"lifetime", "idle"}
