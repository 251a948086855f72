"""A server that moves to another address and another port: never a mixture of both."""

from __future__ import annotations

import math
import random
from typing import cast

import attrs
import pytest
import trio
from trio.testing import MockClock

from qorb_trio import DnsResolverConfig
from qorb_trio.resolvers._dns.moves import MAX_HOLD, MIN_DISTANCE, Moves, moved_targets
from qorb_trio.resolvers._dns.records import Srv
from qorb_trio.resolvers._dns.table import TrackerTable
from qorb_trio.resolvers._dns.tracker import Tracker

from .net import SERVICE, FakeNet, Watch, watching

HOST = "many.test.com"


def move(net: FakeNet, number: int, *, ttls: tuple[int, int] = (60, 60)) -> None:
    """Let the server be at the address and the port of that number."""
    net.set(SERVICE, "SRV", f"1 1 {6000 + number} {HOST}.", ttl=ttls[0])
    net.set(HOST, "A", f"10.0.0.{number}", ttl=ttls[1])


def mixtures(watch: Watch) -> list[set[str]]:
    """Return the sets with a new address and an old port, or the other way round."""
    known = {f"{HOST}:{6000 + number}@10.0.0.{number}" for number in (1, 2)}
    return [names for names in watch.sets if names - known]


@pytest.mark.parametrize("seconds", [0, 0.1, 0.2])
async def test_new_addresses_wait_for_an_answer_with_the_port(
    autojump_clock: MockClock, seconds: float
) -> None:
    """Both queries are due at once, and the answer with the port comes later."""
    net = FakeNet()
    move(net, 1)
    async with watching(net) as watch:
        await trio.sleep(10)
        net.fault(lambda question: seconds if question.rdtype == "SRV" else None)
        move(net, 2)
        await trio.sleep(120)
        assert mixtures(watch) == []
        assert watch.names == {f"{HOST}:6002@10.0.0.2"}


async def test_the_port_is_asked_for_when_an_address_changes(autojump_clock: MockClock) -> None:
    """If the address has the shorter TTL, its change makes the resolver ask for the port."""
    net = FakeNet()
    move(net, 1, ttls=(300, 10))
    async with watching(net, query_interval=1000) as watch:
        await trio.sleep(15)
        move(net, 2, ttls=(300, 10))
        await trio.sleep(30)
        assert mixtures(watch) == []
        assert watch.names == {f"{HOST}:6002@10.0.0.2"}


async def test_an_answer_that_does_not_come_holds_nothing_up(autojump_clock: MockClock) -> None:
    """New addresses are published as soon as they are confirmed, if the port's answer is late."""
    net = FakeNet()
    move(net, 1, ttls=(300, 10))
    async with watching(net, query_interval=1000) as watch:
        await trio.sleep(15)
        net.fault(lambda question: "hang" if question.name == SERVICE else None)
        changed_at = None
        net.set(HOST, "A", "10.0.0.2", ttl=10)
        while len(watch.updates) < 2:  # noqa: ASYNC110
            if changed_at is None and net[0].count(SERVICE, "SRV") > 1:
                changed_at = trio.current_time()
            await trio.sleep(0.01)
        assert changed_at is not None
        assert 1 <= watch.updates[1][0] - changed_at <= 1.1 + MAX_HOLD


async def test_addresses_that_change_all_the_time_ask_for_few_ports(
    autojump_clock: MockClock,
) -> None:
    """The own name is asked for at most once in `MIN_DISTANCE` because of them."""
    net = FakeNet()
    move(net, 1, ttls=(3600, 1))
    async with watching(net, query_interval=1e9, max_refresh=1e9):
        await trio.sleep(10)
        asked = net[0].count(SERVICE, "SRV")
        for number in range(100):
            net.set(HOST, "A", f"10.0.1.{number}", ttl=1)
            await trio.sleep(1)
        assert net[0].count(SERVICE, "SRV") - asked <= 100 / MIN_DISTANCE + 1


@attrs.define(eq=False)
class Name:
    """The parts of a tracker that `Moves` looks at."""

    due: float
    asked_at: float
    asking: bool = False
    is_undecided: bool = False
    records: tuple[str, ...] = ("a record",)


def test_a_set_waits_for_three_seconds_at_most() -> None:
    """A name that stays undecided for ever holds a set up no longer than that."""
    name = Name(due=1, asked_at=0, is_undecided=True)
    table = TrackerTable(DnsResolverConfig(), random.Random(1))
    moves = Moves(table, cast("Tracker", name))
    moves.expect_more(cast("Tracker", Name(due=9, asked_at=0)), (), 0)
    assert name.due == 1, "it has just been asked for"
    now = 0.0
    while moves.hold(now):
        assert now < moves.held_until <= 3
        now = moves.held_until if moves.held_until == 3 else now + 0.5
        name.due = now + 1
    assert now == 3
    assert moves.held_until == math.inf


def test_only_ports_that_change_count_as_a_move() -> None:
    """A target that is new, gone or only weighted otherwise has not moved."""
    before = (Srv(0, 1, 80, "a.test"), Srv(0, 1, 80, "b.test"), Srv(0, 1, 80, "gone.test"))
    after = (Srv(0, 9, 80, "a.test"), Srv(0, 1, 81, "b.test"), Srv(0, 1, 80, "new.test"))
    assert list(moved_targets(before, after)) == ["b.test"]
    assert list(moved_targets(("10.0.0.1",), ("10.0.0.2",))) == []
