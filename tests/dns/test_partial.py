"""Answers that hold a part of the records only: what is missing is kept, and not for ever."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from qorb_trio.resolvers._dns.records import Question, Records, Srv
from qorb_trio.resolvers._dns.retention import Copy, Retention, common, misses_needed

from .net import SERVICE, FakeNet, echo, echo_names, watching

HOST1 = "echo001.test.com"


def connections(updates: Sequence[tuple[float, tuple[object, ...]]]) -> int:
    """The number of backends that came, the first ten not counted."""
    known: set[object] = set()
    count = 0
    for _, update in updates:
        count += len(set(update) - known)
        known = set(update)
    return count - 10


@pytest.mark.parametrize("ttl", [0, 1, 5, 60])
@pytest.mark.parametrize("kind", ["SRV", "A"])
async def test_3_of_10_at_random(autojump_clock: MockClock, ttl: int, kind: str) -> None:
    """A nameserver that answers with 3 of 10 at random: at most one connection a minute."""
    rng = random.Random(ttl)
    net = FakeNet()
    if kind == "SRV":
        echo(net, hosts=10, ttl=3600)
    else:
        net.set(SERVICE, "SRV", "1 1 80 many.test.com.", ttl=3600)
        net.set("many.test.com", "A", *(f"10.0.0.{i}" for i in range(10)))
    name = SERVICE if kind == "SRV" else "many.test.com"
    _, everything = net[0].records[name, kind]

    def pick(question: Question) -> None:
        if question == Question(name, kind):
            net[0].records[name, kind] = (ttl, rng.sample(everything, 3))
            net[0]._cache.pop(question, None)

    net.fault(pick)
    duration = max(ttl, 1) * 1000
    async with watching(net, query_interval=1e9, max_refresh=1e9) as watch:
        await trio.sleep(duration)
        assert net[0].count(name, kind) > 900
        assert len(watch.backends) == 10
        assert connections(watch.updates) <= duration / 60
        assert len(watch.updates) < 40


async def test_a_backend_behind_partial_answers_goes_in_the_end(
    autojump_clock: MockClock,
) -> None:
    """A backend that has gone is removed after about a minute of random answers."""
    rng = random.Random(2)
    net = FakeNet()
    echo(net, hosts=10, ttl=1)
    everything = list(net[0].records[SERVICE, "SRV"][1])

    def pick(question: Question) -> None:
        if question.name == SERVICE:
            net[0].records[SERVICE, "SRV"] = (1, rng.sample(everything, 3))
            net[0]._cache.pop(question, None)

    net.fault(pick)
    async with watching(net) as watch:
        await trio.sleep(100)
        assert watch.names == echo_names(*range(1, 11))
        everything.pop(0)
        await trio.sleep(100)
        assert watch.names == echo_names(*range(2, 11))
        net.fault(None)
        net[0].set(SERVICE, "SRV", *everything[:4], ttl=1)
        await trio.sleep(10)  # a server that has come to its senses is believed soon
        assert watch.names == echo_names(2, 3, 4, 5)


async def test_one_partial_answer_is_no_event(autojump_clock: MockClock) -> None:
    """A backend that is missing from one answer only is kept, without an update."""
    net = FakeNet()
    echo(net)
    async with watching(net) as watch:
        await trio.sleep(10)
        for _ in range(10):
            net.set(SERVICE, "SRV", *net[0].records[SERVICE, "SRV"][1][:1])
            asked = net[0].count(SERVICE)
            while net[0].count(SERVICE) == asked:  # noqa: ASYNC110
                await trio.sleep(0.5)
            echo(net)
            await trio.sleep(100)
        assert watch.sets == [echo_names()]


async def test_a_smaller_set_is_believed_when_it_is_confirmed(autojump_clock: MockClock) -> None:
    """The same smaller set twice in a row: the missing backend goes, within seconds."""
    net = FakeNet()
    echo(net)
    async with watching(net) as watch:
        await trio.sleep(10)
        echo(net, hosts=2)
        await trio.sleep(100)
        assert watch.sets == [echo_names(), echo_names(1, 2)]
        assert watch.updates[1][0] == pytest.approx(61.05, abs=0.1)


async def test_new_records_do_not_wait_for_a_failing_confirmation(
    autojump_clock: MockClock,
) -> None:
    """A replacement that cannot be confirmed: the new comes, the old stays for the time being."""
    net = FakeNet()
    echo(net, hosts=1)
    async with watching(net) as watch:
        await trio.sleep(10)
        net.set(SERVICE, "SRV", "1 1 6001 new.test.com.")
        net.set("new.test.com", "AAAA", "::7")
        net.fault(lambda q: "SERVFAIL" if q.name == SERVICE and trio.current_time() > 61 else None)
        await trio.sleep(100)
        assert watch.names == {"new.test.com:6001@::7"} | echo_names(1)
        net.fault(None)
        await trio.sleep(80)
        assert watch.names == {"new.test.com:6001@::7"}


# ------------------------------------------------------------------------------ the decision


def copy(
    records: Records, time: float, ttl: int = 60, *, server: str = "x", aa: bool = False
) -> Copy:
    return Copy(records, ttl, server, aa, time)


def test_a_copy_from_a_cache_confirms_nothing() -> None:
    """The same answer with a TTL that counts down is no second answer; a renewed one is."""
    old = ("1", "2", "3")
    retention = Retention()
    assert retention.merge(old, copy(("1", "4"), 100, 60)) == old
    assert (retention.is_undecided, retention.held) == (True, ("1", "2", "3", "4"))
    assert retention.merge(old, copy(("1", "4"), 101, 59)) == ("1", "2", "3", "4")
    assert (retention.is_undecided, retention.held) == (False, None)
    assert retention.merge(("1", "2", "3", "4"), copy(("1", "4"), 161, 60)) == ("1", "4")
    assert retention.merge(("1", "4"), copy(("1", "4"), 470, 60)) == ("1", "4")
    assert retention.is_idle


@pytest.mark.parametrize(
    ("ttl", "server", "aa"), [(60, "x", False), (30, "y", False), (30, "x", True)]
)
def test_what_confirms(ttl: int, server: str, aa: bool) -> None:
    """A renewed TTL, another server, and an authoritative answer are second answers."""
    retention = Retention()
    assert retention.merge(("1", "2"), copy(("1",), 100, 60)) == ("1", "2")
    assert retention.merge(("1", "2"), copy(("1",), 101, ttl, server=server, aa=aa)) == ("1",)


def test_a_short_ttl_in_a_cache_holds_the_change_back() -> None:
    """With a TTL of seconds a replacement waits for the cache, so that it is one update."""
    retention = Retention()
    assert retention.merge(("1",), copy(("2",), 100, 2)) == ("1",)
    assert retention.merge(("1",), copy(("2",), 101, 1)) == ("1",)
    assert retention.is_undecided
    assert retention.merge(("1",), copy(("2",), 102.1, 2)) == ("2",)


def test_a_server_is_known_to_answer_in_part_until_it_is_steady() -> None:
    """A record that comes back makes the next removal take three equal answers in a row."""
    retention = Retention()
    known: Records = ("1", "2", "3")
    for time, records in [(100, ("1", "2")), (101, ("1", "3")), (102, ("1", "2", "3"))]:
        known = retention.merge(known, copy(records, time, 1, aa=True))
        assert known == ("1", "2", "3")
    assert not retention.is_idle
    for time in (103, 104):
        known = retention.merge(known, copy(("1", "2"), time, 1, aa=True))
        assert known == ("1", "2", "3")
    assert retention.merge(known, copy(("1", "2"), 105, 1, aa=True)) == ("1", "2")
    assert retention.merge(("1", "2"), copy(("1", "2"), 406, 1, aa=True)) == ("1", "2")
    assert retention.is_idle


def test_records_that_flap_stay_after_the_second_time() -> None:
    """A record that has come back twice, each time soon, makes the next removal take a minute."""
    retention = Retention()
    known: Records = ("1", "2")
    removals = []
    for tick in range(57):  # half a minute with both records, half a minute with one of them
        time = 100.0 + 10 * tick
        records: Records = ("1",) if tick // 3 % 2 else ("1", "2")
        merged = retention.merge(known, copy(records, time, 10, aa=True))
        if len(merged) < len(known):
            removals.append(time)
        known = merged
    assert removals == [140, 200]
    for tick in range(6):
        assert known == ("1", "2")
        known = retention.merge(known, copy(("1",), 700.0 + 12 * tick, 10, aa=True))
    assert known == ("1",)


def test_a_record_that_comes_back_late_is_a_new_one() -> None:
    """Five minutes after a removal, it is forgotten, and the next one takes two answers."""
    retention = Retention()
    known: Records = ("1", "2")
    for time in (100, 500, 900):
        for later in (0, 1):
            known = retention.merge(known, copy(("1",), time + later, 1, aa=True))
        assert known == ("1",)
        known = retention.merge(known, copy(("1", "2"), time + 301, 1, aa=True))
        assert retention.is_idle


def test_what_is_missing_does_not_pile_up() -> None:
    """Answers that are new each time: the number of records kept is bounded."""
    retention = Retention()
    known: Records = ()
    for number in range(200):
        records = (*(f"{number}.{i}" for i in range(100)), *(["back"] if number % 3 else []))
        known = retention.merge(known, copy(tuple(sorted(records)), number, 1, aa=True))
        assert len(known) <= 2001
    assert len(known) >= 500


def test_misses_needed() -> None:
    """The fewer of the records an answer holds, the more answers it takes."""
    assert misses_needed(10, 10) == 2
    assert misses_needed(9, 10) == 3
    assert misses_needed(3, 10) == 20
    assert misses_needed(1, 1000) == 100


def test_records_are_compared_without_weights() -> None:
    """An SRV record with another weight or priority is the same one."""
    records = (Srv(1, 1, 80, "a"), Srv(1, 1, 81, "a"))
    assert common(records, (Srv(2, 9, 80, "a"),)) == (Srv(1, 1, 80, "a"),)
    assert Retention().merge(records, copy((Srv(2, 2, 80, "a"), Srv(2, 2, 81, "a")), 1)) == (
        Srv(2, 2, 80, "a"),
        Srv(2, 2, 81, "a"),
    )
