"""`Ejector` and its guard: the scenarios of ejection, in virtual time, without a pool."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable

import pytest
from hypothesis import given, strategies as st

from qorb_trio import Ejection
from qorb_trio._health.ejection import (
    MAX_LEVEL,
    MIN_VERDICTS,
    NEVER,
    WINDOW,
    Action,
    Ejector,
    may_eject,
)


class Most(random.Random):
    """Draws always the greatest number."""

    def random(self) -> float:
        """The greatest."""
        return 1.0


def an_ejector(rng: random.Random | None = None, **numbers: float) -> Ejector:
    """An ejector of the default rules, but for the numbers given, without randomness."""
    return Ejector(Ejection(**numbers), rng or Most())


def good(ejector: Ejector, now: float, began: float | None = None) -> Action:
    """A good verdict, recorded as the pool does it."""
    if now < ejector.clean_until:
        ejector.good += 1
        return Action.NOTHING
    return ejector.record(failed=False, began=now if began is None else began, now=now)


def bad(ejector: Ejector, now: float, began: float | None = None) -> Action:
    """A bad verdict."""
    return ejector.record(failed=True, began=now if began is None else began, now=now)


def play(ejector: Ejector, verdicts: Iterable[tuple[float, bool]]) -> list[float]:
    """Record verdicts, as pairs of time and failure; return when the rules want an ejection."""
    return [
        now for now, failed in verdicts if (bad if failed else good)(ejector, now) is Action.EJECT
    ]


def ejected(level: int = 1, *, now: float = 0.0, **numbers: float) -> Ejector:
    """A backend that has been ejected some times in a row, the last time at `now`."""
    ejector = an_ejector(None, **numbers)
    for _ in range(level):
        ejector.eject(now)
    return ejector


def state(ejector: Ejector) -> str:
    """The state in the diagram."""
    if not ejector.is_ejected:
        assert not ejector.is_on_trial
        return "usable"
    return "on trial" if ejector.is_on_trial else "ejected"


# Five in a row.


def test_five_bad_claims_in_a_row_eject() -> None:
    """The fifth verdict in a row that is bad asks for the backend's ejection."""
    ejector = an_ejector()
    assert play(ejector, [(now, True) for now in range(5)]) == [4]
    assert ejector.reason == "5 claims in a row failed"
    assert state(ejector) == "usable", "the guard has the last word"
    assert bad(ejector, 5) is Action.EJECT, "it is asked again with each verdict"
    assert ejector.reason == "6 claims in a row failed"


def test_four_bad_one_good_four_bad_eject_nothing() -> None:
    """A good verdict ends the row."""
    verdicts = [True] * 4 + [False] + [True] * 4
    assert not play(an_ejector(), enumerate(verdicts))


def test_a_row_may_take_long() -> None:
    """Verdicts in a row count however far they are apart."""
    assert play(an_ejector(), [(100 * number, True) for number in range(5)]) == [400]
    verdicts = [(100.0 * number, number != 3) for number in range(7)]
    assert not play(an_ejector(), verdicts)


def test_the_row_can_be_switched_off() -> None:
    """With an endless number of failures only the rate counts."""
    ejector = an_ejector(failures=math.inf)
    assert play(ejector, [(number / 10, True) for number in range(25)])[0] == 1.9
    assert "in a row" not in ejector.reason


# Half of twenty.


def test_half_of_twenty_ejects() -> None:
    """If half of twenty verdicts is bad, in whatever order, the twentieth ejects."""
    for first in (True, False):
        ejector = an_ejector()
        verdicts = [(number / 10, first ^ bool(number % 2)) for number in range(20)]
        assert play(ejector, verdicts) == [1.9]
        assert ejector.reason == "10 of 20 claims within 30 s failed"


def test_less_than_half_of_many_ejects_nothing() -> None:
    """Four bad verdicts of each nine never eject a backend."""
    verdicts = [(number / 10, number % 9 in {0, 2, 4, 6}) for number in range(5000)]
    assert not play(an_ejector(), verdicts)


def test_fewer_than_twenty_say_nothing() -> None:
    """Nineteen verdicts are too few for a rate."""
    verdicts = [(number / 10, number % 2 == 0) for number in range(MIN_VERDICTS - 1)]
    assert not play(an_ejector(), verdicts)


def test_twenty_within_thirty_seconds() -> None:
    """Verdicts that are older than thirty seconds do not count."""
    verdicts = [(number * 1.6, number % 2 == 0) for number in range(200)]
    assert not play(an_ejector(), verdicts), "never are there twenty"
    verdicts = [(number * 1.4, number % 2 == 0) for number in range(200)]
    assert play(an_ejector(), verdicts)[0] == 19 * 1.4


def test_good_claims_from_before_the_first_failure_count() -> None:
    """A hundred good verdicts outweigh ten bad ones that come later, for as long as they are
    within thirty seconds."""
    ejector = an_ejector()
    play(ejector, [(number / 10, False) for number in range(100)])
    assert not play(ejector, [(10 + number / 10, number % 2 == 0) for number in range(100)])
    assert play(ejector, [(39 + number / 10, number % 2 == 0) for number in range(60)])


def test_another_rate() -> None:
    """The rate is that of the policy; a rate of 1 needs all to be bad."""
    verdicts = [(number / 10, number % 5 != 0) for number in range(100)]
    assert play(an_ejector(failures=math.inf, failure_rate=0.8), verdicts)[0] == 1.9
    assert not play(an_ejector(failures=math.inf, failure_rate=0.81), verdicts)
    rate_of_all = an_ejector(failures=math.inf, failure_rate=1)
    assert play(rate_of_all, [(0, True)] * 20) == [0]


@given(st.lists(st.tuples(st.floats(0, 4), st.booleans()), max_size=200), st.data())
def test_the_rules_by_their_wording(steps: list[tuple[float, bool]], data: st.DataObject) -> None:
    """The verdicts that eject are those that a plain reading of the rules finds, to within a
    second of the window's age."""
    failures = data.draw(st.sampled_from([3, 5, math.inf]))
    ejector, now, seen = an_ejector(failures=failures), 0.0, []
    for step, failed in steps:
        now += step
        seen.append((now, failed))
        action = (bad if failed else good)(ejector, now)
        assert action in {Action.NOTHING, Action.EJECT}
        tail = [verdict for _, verdict in seen[-5:]]
        in_a_row = failures < math.inf and len(tail) >= failures and all(tail[-int(failures) :])
        window = [verdict for time, verdict in seen if int(time) > int(now) - WINDOW]
        rate = len(window) >= MIN_VERDICTS and sum(window) * 2 >= len(window)
        assert (action is Action.EJECT) == (in_a_row or rate)


# Cost.


def test_a_good_verdict_costs_a_comparison() -> None:
    """While nothing is wrong, verdicts are counted without a call, at most one call a second."""
    ejector = an_ejector()
    calls = 0
    for number in range(10_000):
        now = number / 1000
        if now < ejector.clean_until:
            ejector.good += 1
        else:
            calls += 1
            ejector.record(failed=False, began=now, now=now)
    assert calls == 10
    assert ejector.is_clean


def test_a_few_bad_verdicts_make_good_ones_little_dearer() -> None:
    """If one of a hundred verdicts is bad, two need a call: that one and the next."""
    ejector = an_ejector()
    play(ejector, [(0, False)] * MIN_VERDICTS)
    calls = 0
    for number in range(1000):
        now, failed = number / 100_000, number % 100 == 50
        if not failed and now < ejector.clean_until:
            ejector.good += 1
        else:
            calls += 1
            assert ejector.record(failed=failed, began=now, now=now) is Action.NOTHING
    assert calls == 20
    assert ejector._total + ejector.good == 1000 + MIN_VERDICTS


def test_it_becomes_clean_again() -> None:
    """Thirty seconds after the last bad verdict, good ones cost nothing again."""
    ejector = an_ejector()
    good(ejector, 0)
    assert ejector.is_clean
    bad(ejector, 0.5)
    assert [good(ejector, now) for now in (0.6, 20.0, 30.0)] == [Action.NOTHING] * 3
    assert ejector.is_clean
    assert ejector.clean_until == 31


def test_memory_is_bounded() -> None:
    """At most one count for each second of the window is kept."""
    ejector = an_ejector()
    play(ejector, [(number / 7, number % 3 == 0) for number in range(5000)])
    assert len(ejector._buckets) <= WINDOW


# The duration of ejections.


@pytest.mark.parametrize(
    ("level", "seconds"), [(1, 5), (2, 10), (3, 20), (6, 160), (7, 300), (8, 300), (1000, 300)]
)
def test_ejections_in_a_row_double(level: int, seconds: float) -> None:
    """The longest k-th ejection is ``base * 2 ** (k - 1)`` seconds, up to the maximum."""
    ejector = ejected(level)
    assert ejector.ejected_until == seconds
    assert ejector.trial_at == seconds


def test_the_duration_is_drawn_from_its_second_half() -> None:
    """The first ejection takes between 2.5 and 5 seconds."""
    drawn = [an_ejector(random.Random(seed)).eject(100) for seed in range(200)]
    assert 2.5 <= min(drawn) < 2.55
    assert 4.95 < max(drawn) <= 5
    assert abs(sum(drawn) / 200 - 3.75) < 0.15


def test_an_endless_maximum() -> None:
    """Without a maximum ejections go on doubling, and overflow nothing."""
    ejector = ejected(1000, max_time=math.inf)
    assert ejector.ejected_until == 5 * 2.0 ** (MAX_LEVEL - 1)


@pytest.mark.parametrize(
    ("peace", "seconds"),
    [(0, 40), (39.9, 40), (40, 20), (59.9, 20), (60, 10), (69.9, 10), (70, 5), (1e9, 5)],
)
def test_peace_makes_ejections_shorter_again(peace: float, seconds: float) -> None:
    """k falls by one for every ``base * 2 ** k`` seconds without another ejection."""
    ejector = ejected(3)  # k = 3: the next would be the 4th, and it takes 40 s to forget one
    ejector.restore()
    assert ejector.eject(peace) == seconds


# Trials.


def test_a_trial_is_due_when_the_ejection_is_over() -> None:
    """From then on the next claim is the trial, and while it runs there is no other."""
    ejector = ejected()
    assert (state(ejector), ejector.trial_at) == ("ejected", 5)
    with pytest.raises(AssertionError):
        ejector.begin_trial(4.9)
    ejector.begin_trial(5)
    assert (state(ejector), ejector.trial_at) == ("on trial", NEVER)
    assert ejector.ejected_until == 5
    with pytest.raises(AssertionError):
        ejector.begin_trial(6)


def test_a_good_trial_restores() -> None:
    """After a good trial the backend is fully back, with no verdicts held against it."""
    ejector = an_ejector()
    assert play(ejector, [(0, True)] * 5) == [0]
    ejector.eject(0)
    ejector.begin_trial(5)
    assert good(ejector, 6, began=5) is Action.RESTORE
    assert (state(ejector), ejector.ejected_until, ejector.trial_at) == ("usable", None, NEVER)
    assert ejector.is_clean
    assert not play(ejector, [(7, True)] * 4), "it takes five again"


def test_a_bad_trial_ejects_for_longer() -> None:
    """After a bad trial the next ejection is of the next length."""
    ejector = ejected()
    ejector.begin_trial(5)
    assert bad(ejector, 6, began=5) is Action.EJECT
    assert ejector.reason == "the trial claim failed"
    assert ejector.eject(6) == 10
    assert (state(ejector), ejector.trial_at) == ("ejected", 16)


def test_a_trial_without_a_verdict_is_followed_by_another() -> None:
    """If the trial is cancelled, the next claim is the trial, at once."""
    ejector = ejected()
    ejector.begin_trial(5)
    ejector.end_trial()
    assert (state(ejector), ejector.trial_at) == ("ejected", 5)
    ejector.begin_trial(7)
    assert good(ejector, 8, began=7) is Action.RESTORE


@pytest.mark.parametrize("began", [-10, 0])
@pytest.mark.parametrize("verdict", [good, bad])
def test_claims_from_before_the_ejection_do_not_end_it(began: float, verdict: object) -> None:
    """Verdicts of older claims are ignored during the ejection, during the trial, and after it."""
    ejector = ejected()
    give = good if verdict is good else bad
    assert give(ejector, 1, began=began) is Action.NOTHING
    ejector.begin_trial(5)
    assert give(ejector, 5.5, began=began) is Action.NOTHING
    assert state(ejector) == "on trial"
    assert good(ejector, 6, began=5) is Action.RESTORE
    for _ in range(10):
        assert give(ejector, 7, began=began) is Action.NOTHING


def test_a_trial_of_an_ejection_that_is_over_does_not_end_the_next() -> None:
    """A trial that still runs when its backend is let back, and ejected again, says nothing."""
    ejector = ejected()
    ejector.begin_trial(5)
    ejector.restore()
    assert play(ejector, [(6, True)] * 5) == [6]
    ejector.eject(6)
    assert good(ejector, 7, began=5) is Action.NOTHING
    assert state(ejector) == "ejected"


def test_a_backend_that_is_let_back_starts_again() -> None:
    """Five more bad claims eject a backend that was let back before its trial, and for longer."""
    ejector = ejected()
    ejector.restore()
    assert state(ejector) == "usable"
    assert play(ejector, [(1, True)] * 5) == [1]
    assert ejector.eject(1) == 10


# The guard.


@pytest.mark.parametrize(
    ("ejected_now", "failing", "total", "max_ejected", "expected"),
    [
        (0, 0, 1, 1.0, False),
        (0, 0, 2, 0.5, True),
        (1, 0, 2, 0.5, False),
        (0, 1, 2, 1.0, False),
        (0, 0, 3, 0.5, True),
        (1, 0, 3, 0.5, False),
        (0, 1, 3, 0.5, False),
        (1, 0, 4, 0.5, True),
        (1, 1, 4, 0.5, False),
        (2, 0, 4, 1.0, True),
        (3, 0, 4, 1.0, False),
        (0, 0, 4, 0.0, False),
        (28, 0, 100, 0.29, True),
        (29, 0, 100, 0.29, False),
    ],
)
def test_the_guard(
    ejected_now: int, failing: int, total: int, max_ejected: float, expected: bool
) -> None:
    """At most the given part may be ejected or failing, counted after the ejection, and one
    that works remains."""
    allowed = may_eject(ejected=ejected_now, failing=failing, total=total, max_ejected=max_ejected)
    assert allowed is expected


def test_of_four_that_are_all_bad_two_are_ejected() -> None:
    """The guard keeps half of the backends, however long all of them are bad."""
    ejectors = [an_ejector(random.Random(number)) for number in range(4)]
    for now in range(5, 400):
        for ejector in ejectors:
            if ejector.trial_at <= now:
                ejector.begin_trial(now)
            elif ejector.is_ejected:
                continue
            if bad(ejector, now, began=now) is Action.EJECT:
                others = sum(one.is_ejected for one in ejectors if one is not ejector)
                guard = may_eject(ejected=others, failing=0, total=4, max_ejected=0.5)
                if ejector.is_ejected or guard:
                    ejector.eject(now)
        assert sum(one.is_ejected for one in ejectors) == (0 if now < 9 else 2)
