"""The messages to a client of qtop, and their content."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from qorb_trio import Backend, Claim, Policy, Pool, Resolver
from qorb_trio.qtop import _observer, _snapshot
from qorb_trio.qtop._observer import Observer, labels
from qorb_trio.qtop._report import Report
from qorb_trio.testing import FakeConnector, ManualResolver

from .kit import a_pool, is_recorded

#: The fields of a slot set that qorb's own qtop reads.
QORB_KEYS = [
    "connecting_slots",
    "unclaimed_slots",
    "checking_slots",
    "claimed_slots",
    "total_claims",
]


async def told(report: Report) -> dict[str, Any]:
    """The next message."""
    found: dict[str, Any] = json.loads(await report.next())
    return found


async def test_the_keys_of_qorb_come_first() -> None:
    """The first two keys, and the first five of a set, are those that qorb's qtop reads."""
    async with a_pool("a.test:80", "b.test:80") as pool:
        observer = Observer([pool])
        with observer.watching():
            report = Report(observer)
            assert (await told(report))["claims"] == 0
            for _ in range(3):
                async with pool.claim():
                    pass
            async with pool.claim() as conn:
                message = await told(report)
            assert list(message)[:2] == ["claims", "sets"]
            # Like qorb's: the claims since the last message to this client.
            assert message["claims"] == 4
            assert (await told(report))["claims"] == 0
    assert list(message["sets"]) == ["a.test:80", "b.test:80"]
    for name, part in message["sets"].items():
        assert list(part)[:5] == QORB_KEYS
        assert all(isinstance(part[key], int) for key in QORB_KEYS)
        assert part["claimed_slots"] == (name == conn.backend.name)
    assert sum(part["total_claims"] for part in message["sets"].values()) == 4


async def test_all_of_a_set(autojump_clock: trio.testing.MockClock) -> None:
    """The message contains all statistics that `stats()` has of a backend."""
    connector = FakeConnector()
    connector.fail("b.test:80", exc=OSError('no "way"'))
    async with a_pool("a.test:80", "b.test:80", connector=connector) as pool:
        await trio.sleep(0.01)
        observer = Observer([pool])
        with observer.watching():
            async with pool.claim():
                pass
            message = await told(Report(observer))
        stats = pool.stats().backends
        for name, part in message["sets"].items():
            for key in ("connecting", "unclaimed", "checking", "claimed", "closing", "wanted"):
                assert part[f"{key}_slots"] == getattr(stats[name], key)
            for key in ("online", "failures", "total_claims"):
                assert part[key] == getattr(stats[name], key)
            assert (part["pool"], part["backend"]) == ("db", name)
        good, bad = message["sets"].values()
        assert good["last_error"] is None
        assert bad["last_error"] == 'OSError: no "way"'
        assert good["wait_p50"] == good["wait_p99"] == pytest.approx(1e-6, rel=0.125)
        assert bad["wait_p50"] is bad["wait_p99"] is None


async def test_all_of_a_pool() -> None:
    """The numbers of a pool are those of `stats()` and of its policy."""
    async with a_pool(policy=Policy(spares_wanted=2, max_slots=2)) as pool:
        observer = Observer([pool])
        with observer.watching():
            async with trio.open_nursery() as nursery, pool.claim(), pool.claim():
                nursery.start_soon(claim_once, pool)
                await trio.testing.wait_all_tasks_blocked()
                (part,) = (await told(Report(observer)))["pools"]
    assert part | {"wait_p50": 0, "wait_p99": 0} == {
        "name": "db",
        "claims": 2,
        "waiting": 1,
        "slots": 2,
        "max_slots": 2,
        "departed": 0,
        "held": 2,
        "backends": 1,
        "wait_p50": 0,
        "wait_p99": 0,
        "shed": 0,
        "known": 1,
        "trouble": None,
        "suspended": False,
    }
    assert 0 < part["wait_p50"] <= part["wait_p99"]


async def claim_once(pool: Pool[Any]) -> None:
    """Claim and release."""
    async with pool.claim():
        pass


async def test_several_pools() -> None:
    """With several pools the names of sets have their pool's name before them."""
    async with a_pool("a.test:80") as one, a_pool("a.test:80", name="cache") as two:
        observer = Observer([one, two])
        with observer.watching():
            report = Report(observer)
            await told(report)
            for pool in (one, two, two):
                async with pool.claim():
                    pass
            message = await told(report)
    assert message["claims"] == 3
    assert list(message["sets"]) == ["db/a.test:80", "cache/a.test:80"]
    assert {part["backend"] for part in message["sets"].values()} == {"a.test:80"}
    assert [(part["name"], part["claims"]) for part in message["pools"]] == [
        ("db", 1),
        ("cache", 2),
    ]


def test_pools_of_one_name() -> None:
    """Pools that have the same name are told apart by a number."""
    assert labels(["db", "db", "x", "db#2", "db"]) == ["db", "db#2", "x", "db#2#2", "db#3"]


async def test_events_are_told_once_to_each_client(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Each client gets each event that is still kept when it asks, and none twice."""
    resolver = ManualResolver(["a.test:80"])
    async with a_pool(resolver=resolver) as pool:
        observer = Observer([pool])
        with observer.watching():
            early = Report(observer)
            assert (await told(early))["events"] == []
            resolver.set(["b.test:80"])
            await trio.sleep(3)
            late = Report(observer)
            for report in (early, late):
                events = (await told(report))["events"]
                assert {(it["event"], it["backend"]) for it in events} == {
                    ("backend_removed", "a.test:80"),
                    ("slot_set_offline", "a.test:80"),
                    ("backend_added", "b.test:80"),
                    ("slot_set_online", "b.test:80"),
                }
                assert {it["age"] for it in events} == {3.0}
                assert (await told(report))["events"] == []


async def test_j_events_of_several_pools_are_in_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The events of several pools come in the order of their time, not pool by pool."""
    one, two = ManualResolver(["a.test:80"]), ManualResolver(["a.test:80"])
    async with a_pool(resolver=one) as first, a_pool(resolver=two, name="cache") as second:
        observer = Observer([first, second])
        with observer.watching():
            for resolver, backend in ((two, "b"), (one, "c"), (two, "d"), (one, "e")):
                await trio.sleep(1)
                resolver.set([f"{backend}.test:80"])
            await trio.sleep(1)
            events = (await told(Report(observer)))["events"]
    added = [(it["pool"], it["backend"]) for it in events if it["event"] == "backend_added"]
    assert added == [
        ("cache", "b.test:80"),
        ("db", "c.test:80"),
        ("cache", "d.test:80"),
        ("db", "e.test:80"),
    ]
    assert [it["age"] for it in events] == sorted((it["age"] for it in events), reverse=True)


async def test_clients_share_what_is_young(autojump_clock: trio.testing.MockClock) -> None:
    """Within a twentieth of a second the pools are looked at once, but never twice for one."""
    async with a_pool() as pool:
        observer = Observer([pool])
        with observer.watching():
            first, second, third = Report(observer), Report(observer), Report(observer)
            await told(first)
            async with pool.claim():
                pass
            assert (await told(second))["pools"][0]["claims"] == 0
            assert (await told(first))["claims"] == 1
            assert (await told(second))["claims"] == 1
            await trio.sleep(_observer.FRESH + 0.01)
            async with pool.claim():
                pass
            assert (await told(third))["pools"][0]["claims"] == 2


async def test_a_message_about_many_backends_is_made_in_pieces() -> None:
    """Other tasks run while a message is made, once for each 64 backends."""
    backends = [(f"10.0.{number // 250}.{number % 250 + 1}", 80) for number in range(300)]
    policy = Policy(max_slots=300, spares_wanted=300)  # so that all backends are active
    async with (
        a_pool(resolver=ManualResolver(backends), policy=policy) as pool,
        trio.open_nursery() as nursery,
    ):
        observer = Observer([pool])
        steps = 0

        async def step() -> None:
            nonlocal steps
            while True:
                await trio.lowlevel.checkpoint()
                steps += 1

        nursery.start_soon(step)
        with observer.watching():
            message = await told(Report(observer))
        nursery.cancel_scope.cancel()
    assert len(message["sets"]) == len(backends)
    assert steps >= len(backends) // _observer.STEP


async def test_what_an_ejection_looks_like() -> None:
    """An ejected backend has the seconds until its trial, one whose trial is due has none."""
    async with a_pool() as pool:
        (stats,) = pool.stats().backends.values()
    for until, left in ((None, None), (107.5, 7.5), (99.0, 0.0)):
        now = attrs.evolve(stats, ejected_until=until, failed_claims=4, stale=3, retiring=2)
        part = json.loads(_snapshot.set_part('"db"', now, None, 100.0))
        assert part["ejected_for"] == left
        assert (part["failed_claims"], part["stale"], part["retiring"]) == (4, 3, 2)


async def test_d_why_there_are_no_backends() -> None:
    """The trouble of the resolver is told with the pool."""

    class Troubled(Resolver):
        def __init__(self, trouble: object) -> None:
            self.trouble = trouble

        async def run(self, updates: trio.MemorySendChannel[Collection[Backend]]) -> None:
            await updates.send([Backend(("a.test", 80))])

        def snapshot(self) -> object:
            return SimpleNamespace(trouble=self.trouble)

    for trouble, expected in (("no answer from 10.0.0.53", "no answer from 10.0.0.53"), (7, None)):
        async with a_pool(resolver=Troubled(trouble)) as pool:
            observer = Observer([pool])
            with observer.watching():
                assert (await told(Report(observer)))["pools"][0]["trouble"] == expected


async def test_names_and_errors_that_need_quoting(caplog: pytest.LogCaptureFixture) -> None:
    """The message is JSON in ASCII for any name of a backend or a pool, and for any error."""
    # Pytest could not send what is logged of such a name from one process to another.
    caplog.set_level(logging.CRITICAL, "qorb_trio")
    name = 'evil"name\\</script>\u2028\udc80'
    connector = FakeConnector()
    resolver = ManualResolver([Backend(("a", 1), name="a"), Backend(("b", 2), name=name)])
    connector.fail(name, exc=OSError(name))
    async with a_pool(resolver=resolver, connector=connector, name=name) as pool:
        observer = Observer([pool, pool])
        with observer.watching():
            text = await Report(observer).next()
    assert text.isascii()
    message = json.loads(text)
    assert f"{name}#2/{name}" in message["sets"]
    assert name in message["sets"][f"{name}/{name}"]["last_error"].replace(" ", name[-2])


async def test_a_pool_that_has_ended() -> None:
    """The pool may end before its watchers do."""
    async with a_pool() as pool:
        observer = Observer([pool])
        with observer.watching():
            report = Report(observer)
            await told(report)
            before = pool.is_closed
            await pool.terminate()
            assert (before, pool.is_closed) == (False, True)
            assert (await told(report))["pools"][0]["slots"] == 0


async def test_holders(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest holders come first, and at most a hundred, of all pools together."""
    monkeypatch.setattr(_snapshot, "HOLDERS", 2)
    async with a_pool() as one, a_pool(name="cache") as two:
        observer = Observer([one, two])
        with observer.watching():
            async with one.claim():
                await trio.sleep(1)
                async with two.claim() as conn:
                    await trio.sleep(2)
                    async with one.claim():
                        message = await told(Report(observer))
    assert [(it["pool"], it["age"]) for it in message["holders"]] == [("db", 3), ("cache", 2)]
    assert [it["held"] for it in message["pools"]] == [2, 1]
    holder = message["holders"][1]
    assert holder["backend"] == conn.backend.name
    assert "test_holders" in holder["task"]
    assert holder["since"] == trio.current_time() - 2


async def test_the_label_of_a_claim_is_its_name() -> None:
    """A claim with a label is shown by it, another one by the name of its task."""
    async with a_pool() as pool:
        observer = Observer([pool])
        with observer.watching():
            async with pool.claim(label="GET /reports"), pool.claim():
                message = await told(Report(observer))
    plain, labelled = sorted(it["task"] for it in message["holders"])
    assert labelled == "GET /reports"
    assert "test_the_label_of_a_claim" in plain


async def test_where_a_holder_is() -> None:
    """The stack of a holder can be asked for as long as it holds the connection."""
    async with a_pool() as pool, trio.open_nursery() as nursery:
        observer = Observer([pool])
        done = trio.Event()
        nursery.start_soon(hold, pool, done)
        ended: list[Claim[Any]] = []
        async with trio.open_nursery() as other:
            other.start_soon(acquire, pool, ended)
        await trio.testing.wait_all_tasks_blocked()
        questions = [{"pool": "db", "id": it.slot_id, "since": it.since} for it in pool.holders()]
        texts = []
        for question in questions:
            answer = json.loads(await observer.stack(question) or "")["stack"]
            assert answer == question | {"text": answer["text"]}
            texts.append(answer["text"])
        texts.sort()
        assert texts[0].startswith("  File")
        assert "in hold" in texts[0]
        assert texts[1] == "The task has ended."
        ended[0].release()
        done.set()
        await trio.testing.wait_all_tasks_blocked()
        for gone in (questions[0], questions[0] | {"pool": "other"}):
            assert "given the connection back" in (await observer.stack(gone) or "")
        assert await observer.stack(questions[0] | {"id": "1"}) is None


async def hold(pool: Pool[Any], done: trio.Event) -> None:
    """Claim, and release when it is time to."""
    async with pool.claim():
        await done.wait()


async def acquire(pool: Pool[Any], claims: list[Claim[Any]]) -> None:
    """Claim, for somebody else to release."""
    claims.append(await pool.acquire())


async def test_an_instrument_that_was_removed_before() -> None:
    """The end of watching is no matter of whether the recorder is still there."""
    async with a_pool() as pool:
        observer = Observer([pool])
        with observer.watching():
            pool.remove_instrument(observer.recorders["db"])
        assert not observer.recorders
        with observer.watching():
            assert await is_recorded(pool)


async def test_the_table_of_the_messages() -> None:
    """docs/observability.md lists each key of a message, and no other, in their order."""
    page = (Path(__file__).parents[2] / "docs" / "observability.md").read_text(encoding="utf-8")
    section = page.partition("### The messages")[2]
    listed = {
        key: re.findall(r"`(\w+)`", rest.replace("`null`", ""))
        for key, rest in re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE)
    }
    resolver = ManualResolver(["a.test:80"])
    async with a_pool(resolver=resolver) as pool, pool.claim():
        observer = Observer([pool])
        with observer.watching():
            resolver.set(["a.test:80", "b.test:80"])
            await trio.testing.wait_all_tasks_blocked()
            message = await told(Report(observer))
    examples = {
        "sets": message["sets"]["a.test:80"],
        "pools": message["pools"][0],
        "holders": message["holders"][0],
        "events": message["events"][0],
    }
    assert listed == {key: list(examples.get(key, ())) for key in message}


async def test_a_suspended_pool_is_marked() -> None:
    """The message says of a pool whether it is suspended."""
    async with a_pool("a.test:80") as pool:
        observer = Observer([pool])
        with observer.watching():
            pool.suspend()
            assert (await told(Report(observer)))["pools"][0]["suspended"] is True
