"""`ProbedResolver`: only the backends that pass a probe."""

from __future__ import annotations

import itertools
import logging
import math
import random
from collections.abc import Callable, Collection

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from qorb_trio import Backend, FixedResolver, ProbedResolver, Resolver, open_pool
from qorb_trio.resolvers import ProbedSnapshot
from qorb_trio.resolvers._probed import _Members, _Outcome
from qorb_trio.testing import FakeConnector, ManualResolver

from .test_mapped import receive_and_fail, running

A, B, C = "a:1", "b:1", "c:1"
LOGGER = "qorb_trio.resolver"


class Cluster:
    """Backends that a probe asks, each with an answer of its own."""

    def __init__(self, **answers: object) -> None:
        self.answers = answers
        self.asked: list[tuple[float, str]] = []
        self.asking = self.most_at_once = 0

    async def probe(self, backend: Backend) -> bool:
        self.asked.append((trio.current_time(), backend.name))
        self.asking += 1
        self.most_at_once = max(self.most_at_once, self.asking)
        try:
            await trio.sleep(0.01)
            answer = self.answers[str(backend.host)]
            if answer == "hang":
                await trio.sleep_forever()
            if isinstance(answer, Exception):
                raise answer
            return answer  # type: ignore[return-value]
        finally:
            self.asking -= 1

    def resolver(self, *, inner: Resolver | None = None, timeout: float = 1) -> ProbedResolver:
        backends = [Backend((host, 1)) for host in self.answers]
        return ProbedResolver(
            inner or FixedResolver(backends), self.probe, timeout=timeout, rng=random.Random(1)
        )


async def test_only_backends_that_pass_are_sent(autojump_clock: MockClock) -> None:
    """True is in the set, false is not, and changes are followed within the interval."""
    cluster = Cluster(a=True, b=False, c=1)
    async with running(cluster.resolver()) as found:
        await trio.sleep(3)
        assert found == [[A, C]]
        cluster.answers["b"] = True
        await trio.sleep(1.1)
        assert found[-1] == [A, B, C]
        cluster.answers["a"] = cluster.answers["c"] = False
        await trio.sleep(1.1)
        assert found[-1] == [B]
        cluster.answers["b"] = False
        await trio.sleep(1.1)
        assert found[-1] == []


async def test_every_backend_is_probed_each_interval(autojump_clock: MockClock) -> None:
    """Probes come once per interval and up to a tenth sooner, each backend by itself."""
    cluster = Cluster(a=True, b=True)
    async with running(cluster.resolver()):
        await trio.sleep(100)
    times = [when for when, name in cluster.asked if name == A]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert min(gaps) >= 0.9
    assert max(gaps) <= 1
    assert max(gaps) - min(gaps) > 0.05
    assert cluster.most_at_once == 2


async def test_probes_of_one_backend_do_not_overlap(autojump_clock: MockClock) -> None:
    """A probe that takes longer than the interval is followed by the next at once."""
    cluster = Cluster(a="hang")
    async with running(cluster.resolver(timeout=5)):
        await trio.sleep(50)
    assert cluster.most_at_once == 1
    assert 9 <= len(cluster.asked) <= 11


@pytest.mark.parametrize("answer", ["hang", ConnectionError("gone"), None])
async def test_unknown_stays_until_another_says_true(
    autojump_clock: MockClock, answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    """A member whose probe raises, hangs or returns None stays, until another one is true."""
    cluster = Cluster(a=True, b=False)
    resolver = cluster.resolver()
    async with running(resolver) as found:
        await trio.sleep(2)
        cluster.answers["a"] = answer
        await trio.sleep(20)
        assert found == [[A]]
        state = {one.backend.name: one for one in resolver.snapshot().backends}
        assert (state[A].state, state[A].included) == ("unknown", True)
        assert (state[B].state, state[B].included) == ("no", False)
        cluster.answers["b"] = True
        await trio.sleep(1.1)
        assert found == [[A], [B]]
        cluster.answers["a"] = True
        await trio.sleep(2.1)
        assert found[-1] == [A, B]
    [record] = [one for one in caplog.records if one.name == LOGGER]
    assert record.levelno == logging.WARNING
    assert "probe of a:1" in record.getMessage()


async def test_a_member_that_comes_and_goes_is_logged_once_a_minute(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A probe that fails every other time is one line a minute, with its text escaped."""
    cluster = Cluster(a=True)
    async with running(cluster.resolver()) as found:
        await trio.sleep(0.1)
        for _ in range(60):
            cluster.answers["a"] = OSError("bad\nline\x1b")
            await trio.sleep(2.2)
            cluster.answers["a"] = True
            await trio.sleep(2.2)
        assert found == [[A]]
    lines = [one.getMessage() for one in caplog.records if one.name == LOGGER]
    assert 4 <= len(lines) <= 5
    assert r"OSError: bad\nline\x1b" in lines[0]


async def test_the_first_set_does_not_wait_for_a_probe_that_hangs(
    autojump_clock: MockClock,
) -> None:
    """The first set is sent as soon as one probe is true."""
    cluster = Cluster(a="hang", b=True)
    async with running(cluster.resolver()) as found:
        await trio.sleep(0.1)
        assert found == [[B]]


async def test_an_empty_set_waits_for_all(autojump_clock: MockClock) -> None:
    """The empty set is sent when every probe has had an outcome."""
    cluster = Cluster(a="hang", b=False)
    async with running(cluster.resolver()) as found:
        await trio.sleep(0.9)
        assert found == []
        await trio.sleep(0.3)
        assert found == [[]]


async def test_backends_that_come_and_go(autojump_clock: MockClock) -> None:
    """A backend that leaves is out at once, its probe cancelled; a new one is probed at once."""
    manual = ManualResolver([A, B])
    cluster = Cluster(a=True, b="hang", c=True)
    resolver = cluster.resolver(inner=manual, timeout=math.inf)
    async with running(resolver) as found:
        await trio.sleep(5)
        assert cluster.asking == 1
        manual.set([A, C])
        await trio.sleep(0.1)
        assert cluster.asking == 0
        assert found == [[A], [A, C]]
        manual.set([Backend(("a", 1), priority=3), C])
        await trio.sleep(0.1)
        assert found[2:] == [[A, C]]
        manual.set([C])
        await trio.sleep(0.1)
        assert found[3:] == [[C]]
        manual.set([])
        manual.finish()
        await trio.sleep(0.1)
        assert found[4:] == [[]]
        assert resolver.snapshot().backends == ()


async def test_failover_of_a_primary(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A pool follows a failover within interval + timeout, and never claims a replica."""
    primary = "a"
    alive = {"a", "b", "c"}

    async def is_primary(backend: Backend) -> bool:
        if backend.host not in alive:
            await trio.sleep_forever()
        await trio.sleep(0.01)
        return backend.host == primary

    resolver = ProbedResolver(FixedResolver([A, B, C]), is_primary, rng=random.Random(1))
    connector = FakeConnector()
    claims: list[tuple[float, str, str]] = []

    async def client() -> None:
        while True:
            async with pool.claim(timeout=10) as conn:
                claims.append((trio.current_time(), str(conn.backend.host), primary))
                await trio.sleep(0.01)

    async with open_pool(nursery, resolver, connector) as pool:
        nursery.start_soon(client)
        await trio.sleep(10)
        for victim, successor in [("a", "b"), ("b", "c"), ("c", "a")]:
            alive.discard(victim)
            await trio.sleep(3)
            primary = successor
            promoted = trio.current_time()
            await trio.sleep(10)
            alive.add(victim)
            await trio.sleep(5)
            served = [when for when, host, _ in claims if host == successor and when > promoted]
            assert served[0] - promoted <= 2
        nursery.cancel_scope.cancel()
    # Between a death and the promotion claims go to the old primary: it is the pool's to
    # find it dead. At no time do they go to a backend that is a replica, and was not primary.
    order = ["a", "b", "c", "a"]
    hosts = [host for _, host, _ in claims]
    changes = [host for i, host in enumerate(hosts) if i == 0 or hosts[i - 1] != host]
    assert changes == order


async def test_a_network_that_fails_does_not_empty_the_pool(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """While all probes fail, the pool goes on with the members that it has."""
    cluster = Cluster(a=True, b=True, c=False)
    async with open_pool(nursery, cluster.resolver(), FakeConnector()) as pool:
        await pool.wait_ready(2)
        cluster.answers = dict.fromkeys("abc", OSError("unreachable"))
        for _ in range(60):
            await trio.sleep(1)
            async with pool.claim(timeout=0):
                pass
        assert set(pool.stats().backends) == {A, B}
        cluster.answers = {"a": False, "b": OSError("unreachable"), "c": OSError("unreachable")}
        await trio.sleep(5)
        assert set(pool.stats().backends) == {B}


def test_a_probe_that_was_under_way_removes_nobody() -> None:
    """Only a probe that began after another one had failed takes the other's place."""
    members = _Members()
    (a, b), _ = members.update([Backend(("a", 1)), Backend(("b", 1))])
    for entry in (a, b):
        members.note(entry, _Outcome("yes", None, 0, 0.1))
    members.note(a, _Outcome("unknown", "unreachable", 1, 1.1))
    members.note(b, _Outcome("yes", None, 1.05, 1.15))
    assert set(members.included) == {a.backend, b.backend}
    members.note(a, _Outcome("unknown", "unreachable", 2, 2.1))
    members.note(b, _Outcome("yes", None, 2.05, 2.15))
    assert set(members.included) == {b.backend}


def test_the_snapshot_says_what_is_wrong() -> None:
    """`trouble` is one line about the first probe that failed, or that of the other resolver."""
    resolver = ProbedResolver(FixedResolver([A]), nothing)
    assert resolver.snapshot() == ProbedSnapshot((), None)
    assert resolver.snapshot().trouble is None
    assert "FixedResolver" in repr(resolver)

    class Other:
        trouble = "no such name"

    assert ProbedSnapshot((), Other()).trouble == "no such name"


async def test_the_trouble_of_backends_that_do_not_pass(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The trouble gives the number of backends and a reason if none passes; it is logged once."""
    cluster = Cluster(a=False, b=OSError("gone"))
    resolver = cluster.resolver()
    async with running(resolver):
        await trio.sleep(0.1)
        trouble = resolver.snapshot().trouble
        assert trouble == "no backend of 2 passes the probe: b:1: unknown (OSError: gone)"
        cluster.answers = {"a": False, "b": False}
        await trio.sleep(1)
        assert resolver.snapshot().trouble == "no backend of 2 passes the probe: a:1: no"
        cluster.answers["a"] = True
        await trio.sleep(1)
        assert resolver.snapshot().trouble is None
        cluster.answers["a"] = False
        await trio.sleep(1)
        assert [one.getMessage() for one in caplog.records if one.name == LOGGER] == [trouble]
        assert resolver.snapshot().backends[0].probed_at == pytest.approx(3, abs=0.4)


async def test_cancelled_in_a_probe(autojump_clock: MockClock) -> None:
    """Cancelled, the resolver cancels its probes and ends at once."""
    cluster = Cluster(a="hang", b="hang")
    async with running(cluster.resolver(timeout=math.inf)):
        await trio.sleep(1)
        assert cluster.asking == 2
        before = trio.current_time()
    assert cluster.asking == 0
    assert trio.current_time() == before


async def test_a_resolver_that_raises_crashes_as_it_is(autojump_clock: MockClock) -> None:
    """The other resolver's exception comes out of `run` without a group."""
    manual = ManualResolver([A])
    crash = ValueError("broken")
    outbox, inbox = trio.open_memory_channel[Collection[Backend]](0)
    async with inbox, trio.open_nursery() as nursery:
        nursery.start_soon(receive_and_fail, inbox, manual, crash)
        with pytest.raises(ValueError, match="broken") as caught:
            await Cluster(a=True).resolver(inner=manual).run(outbox)
    assert caught.value is crash


async def nothing(_: Backend) -> bool:
    raise AssertionError


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: ProbedResolver([A], nothing), TypeError, "resolver"),  # type: ignore[arg-type]
        (lambda: ProbedResolver(FixedResolver([A]), True), TypeError, "probe"),  # type: ignore[arg-type]
        (lambda: ProbedResolver(FixedResolver([A]), nothing, interval=0), ValueError, "interval"),
        (
            lambda: ProbedResolver(FixedResolver([A]), nothing, interval=math.inf),
            ValueError,
            "interval",
        ),
        (lambda: ProbedResolver(FixedResolver([A]), nothing, timeout=-1), ValueError, "timeout"),
        (lambda: ProbedResolver(FixedResolver([A]), nothing, timeout=0), ValueError, "timeout"),
        (
            lambda: ProbedResolver(FixedResolver([A]), nothing, timeout="1"),  # type: ignore[arg-type]
            TypeError,
            "timeout",
        ),
        (lambda: ProbedResolver(FixedResolver([A]), nothing, rng=1), TypeError, "rng"),  # type: ignore[arg-type]
    ],
)
def test_wrong_arguments(
    make: Callable[[], ProbedResolver], error: type[Exception], words: str
) -> None:
    """Wrong arguments are errors at construction that name them."""
    with pytest.raises(error, match=words):
        make()
