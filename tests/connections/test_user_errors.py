"""Wrong numbers, wrong connectors: each is told apart and named."""

from __future__ import annotations

import copy
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import PurePosixPath
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

import qorb_trio
from qorb_trio import Backend, Connector, Ejection, NoBackendsOnlineError, Policy, SetConfig

from ..harness import ManualSets, backends, policy_of

COUNTS = {"spares_wanted": 0, "max_slots": 1, "max_count": 1}
NO_ZERO = {
    "rebalance_interval",
    "min_connection_backoff",
    "max_connection_backoff",
    "health_interval",
    "health_check_timeout",
    "connect_timeout",
    "leak_warning_after",
    "queue_target",
    "max_lifetime",
    "idle_timeout",
}
ZERO = {
    "claim_timeout",
    "drain_timeout",
    "spread",
    "disconnect_timeout",
    "fail_fast_after",
    "slow_start",
}
FINITE = {"min_connection_backoff", "spread", "slow_start"}
SECONDS = NO_ZERO | ZERO
#: Counts that may be endless.
LIMITS = {"max_waiting": 0, "max_uses": 1, "max_connecting": 1}
OF_SET = {field.name for field in attrs.fields(SetConfig)}


def make(name: str, value: Any) -> Policy | SetConfig:
    """The class that has this field, with this value."""
    return SetConfig(**{name: value}) if name in OF_SET else Policy(**{name: value})


def test_every_number_is_tested() -> None:
    """The tables above have all the fields that there are."""
    fields = OF_SET | {field.name for field in attrs.fields(Policy)}
    assert fields - {"set_config", "ejection"} == set(COUNTS) | set(LIMITS) | SECONDS


def test_the_defaults() -> None:
    """The defaults are those of the contract."""
    assert attrs.asdict(Policy(), recurse=False) == {
        "spares_wanted": 8,
        "max_slots": 16,
        "rebalance_interval": 60,
        "claim_timeout": 30,
        "drain_timeout": 5,
        "set_config": SetConfig(),
        "leak_warning_after": math.inf,
        "max_waiting": math.inf,
        "fail_fast_after": math.inf,
        "queue_target": math.inf,
        "ejection": Ejection(),
    }
    assert attrs.asdict(SetConfig()) == {
        "max_count": 16,
        "min_connection_backoff": 0.02,
        "max_connection_backoff": 30,
        "spread": 0.02,
        "health_interval": 30,
        "health_check_timeout": 3,
        "connect_timeout": 10,
        "disconnect_timeout": 1,
        "max_lifetime": math.inf,
        "idle_timeout": math.inf,
        "max_uses": math.inf,
        "max_connecting": math.inf,
        "slow_start": 0,
    }


@pytest.mark.parametrize("name", sorted(SECONDS | COUNTS.keys() | LIMITS.keys()))
@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (-1, ValueError),
        (-math.inf, (ValueError, TypeError)),
        (math.nan, (ValueError, TypeError)),
        (True, TypeError),
        (False, TypeError),
        ("1", TypeError),
        (None, TypeError),
        ([1], TypeError),
        (1j, TypeError),
    ],
)
def test_ff48_no_number(name: str, value: Any, kind: Any) -> None:
    """NaN, a negative, a bool or something else is an error that names the field."""
    with pytest.raises(kind, match=rf"\b{name}\b"):
        make(name, value)


@pytest.mark.parametrize("name", sorted(COUNTS))
@pytest.mark.parametrize("value", [1.0, 2.5, math.inf])
def test_ff48_no_count(name: str, value: Any) -> None:
    """A count that is not an int is a `TypeError` that names the field."""
    with pytest.raises(TypeError, match=rf"\b{name}\b"):
        make(name, value)


@pytest.mark.parametrize("name", sorted(SECONDS | COUNTS.keys() | LIMITS.keys()))
def test_ff48_zero(name: str) -> None:
    """Zero is refused where it would spin or hang, and means something elsewhere."""
    if name in NO_ZERO or (COUNTS | LIMITS).get(name) == 1:
        with pytest.raises(ValueError, match=rf"\b{name}\b"):
            make(name, 0)
    else:
        assert getattr(make(name, 0), name) == 0


@pytest.mark.parametrize("name", sorted(SECONDS | LIMITS.keys()))
def test_ff48_infinity(name: str) -> None:
    """Infinity switches an interval off and makes a timeout endless, or is refused."""
    if name in FINITE:
        with pytest.raises(ValueError, match=rf"\b{name}\b"):
            make(name, math.inf)
    else:
        assert getattr(make(name, math.inf), name) == math.inf


def test_ff48_a_minimum_above_the_maximum() -> None:
    """A shortest delay above the longest is an error that names both."""
    with pytest.raises(ValueError, match=r"min_connection_backoff.*max_connection_backoff"):
        SetConfig(min_connection_backoff=2, max_connection_backoff=1)
    assert SetConfig(min_connection_backoff=1, max_connection_backoff=1).spread == 0.02


@pytest.mark.parametrize("value", [None, {}, SetConfig, Policy()])
def test_a_set_config_must_be_one(value: Any) -> None:
    """Anything but a `SetConfig` is a `TypeError` that names the field."""
    with pytest.raises(TypeError, match="set_config"):
        Policy(set_config=value)


@pytest.mark.parametrize("instance", [Policy(), SetConfig(), Backend(("a", 1))])
def test_the_numbers_are_frozen(instance: Any) -> None:
    """A policy, its set config, and a backend cannot be changed, and can be hashed."""
    name = attrs.fields(type(instance))[0].name
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(instance, name, 1)
    assert hash(instance) == hash(copy.copy(instance))
    assert instance == copy.deepcopy(instance)


async def test_more_spares_than_slots(autojump_clock: MockClock) -> None:
    """``spares_wanted`` above ``max_slots`` means all of them."""
    connector = Numbers(object)
    async with open_plain(connector, policy=policy_of(spares_wanted=100, max_slots=4)) as pool:
        await pool.wait_ready(4)
        assert pool.stats().slots == 4


async def test_ff46_infinite_everything(autojump_clock: MockClock) -> None:
    """A pool whose every number may be infinite is, and works."""
    policy = Policy(
        rebalance_interval=math.inf,
        claim_timeout=math.inf,
        drain_timeout=math.inf,
        set_config=SetConfig(
            max_connection_backoff=math.inf,
            health_interval=math.inf,
            health_check_timeout=math.inf,
            connect_timeout=math.inf,
            disconnect_timeout=math.inf,
        ),
    )
    async with open_plain(Numbers(object), policy=policy) as pool:
        await pool.wait_ready(8)
        await trio.sleep(80_000)
        async with pool.claim():
            await trio.sleep(80_000)


# -------------------------------------------------------------------- backends


@pytest.mark.parametrize(
    ("address", "name", "host", "port"),
    [
        (("a.test", 80), "a.test:80", "a.test", 80),
        (("::1", 80), "[::1]:80", "::1", 80),
        (("127.0.0.1", 65535), "127.0.0.1:65535", "127.0.0.1", 65535),
        ("/run/a.sock", "/run/a.sock", None, None),
        (PurePosixPath("/run/a.sock"), "/run/a.sock", None, None),
    ],
)
def test_a_backend_names_itself(
    address: Any, name: str, host: str | None, port: int | None
) -> None:
    """The name is made from the address, and host and port are those of the address."""
    backend = Backend(address)
    assert (backend.name, backend.host, backend.port) == (name, host, port)
    assert (backend.priority, backend.weight) == (0, 1)
    assert Backend(address, name="other").name == "other"


def test_the_identity_of_a_backend() -> None:
    """Name and address make a backend; priority and weight do not."""
    one = Backend(("a", 1), name="n")
    assert one == Backend(("a", 1), name="n", priority=3, weight=9)
    assert hash(one) == hash(Backend(("a", 1), name="n", priority=3, weight=9))
    assert one != Backend(("a", 2), name="n")
    assert one != Backend(("a", 1), name="m")


@pytest.mark.parametrize(
    ("keywords", "kind", "match"),
    [
        ({"address": None}, TypeError, "address"),
        ({"address": 80}, TypeError, "address"),
        ({"address": ("a", 1, 2)}, TypeError, "address"),
        ({"address": ["a", 1]}, TypeError, "address"),
        ({"address": ("a", "1")}, TypeError, "port"),
        ({"address": ("a", True)}, TypeError, "port"),
        ({"address": ("a", 0)}, ValueError, "port"),
        ({"address": ("a", -1)}, ValueError, "port"),
        ({"address": ("a", 65536)}, ValueError, "port"),
        ({"address": (b"a", 1)}, TypeError, "host"),
        ({"address": ("", 1)}, ValueError, "host"),
        ({"address": ""}, ValueError, "address"),
        ({"address": "a.test:80"}, ValueError, "address"),
        ({"name": 1}, TypeError, "name"),
        ({"name": b"a"}, TypeError, "name"),
        ({"name": ""}, ValueError, "name"),
        ({"priority": -1}, ValueError, "priority"),
        ({"priority": 1.0}, TypeError, "priority"),
        ({"priority": True}, TypeError, "priority"),
        ({"priority": None}, TypeError, "priority"),
        ({"weight": -1}, ValueError, "weight"),
        ({"weight": math.nan}, TypeError, "weight"),
        ({"weight": "1"}, TypeError, "weight"),
        ({"weight": False}, TypeError, "weight"),
    ],
)
def test_wrong_backends(keywords: dict[str, Any], kind: type[Exception], match: str) -> None:
    """A wrong argument of `Backend` is an error that names it."""
    with pytest.raises(kind, match=match):
        Backend(**{"address": ("a.test", 80), **keywords})


# ------------------------------------------------------------- what connect returns


class Numbers(Connector[Any]):
    """Connections are whatever a function returns; closing them is counted."""

    def __init__(self, source: Callable[[], object]) -> None:
        self.source = source
        self.closed: list[Any] = []

    async def connect(self, backend: Backend) -> Any:
        """The next one."""
        return self.source()

    async def disconnect(self, conn: Any) -> None:
        """Note it."""
        self.closed.append(conn)


@asynccontextmanager
async def open_plain(
    connector: Connector[Any], *, policy: Policy, names: str = "a"
) -> AsyncIterator[qorb_trio.Pool[Any]]:
    """A pool with a connector that is not under watch."""
    async with (
        trio.open_nursery() as nursery,
        qorb_trio.open_pool(nursery, ManualSets(backends(names)), connector, policy=policy) as pool,
    ):
        yield pool


async def test_ff49_connect_returns_none(autojump_clock: MockClock) -> None:
    """A `connect` that returns `None` has failed with a `TypeError`, and is not closed."""
    connector = Numbers(lambda: None)
    async with open_plain(connector, policy=policy_of(max_slots=1)) as pool:
        with pytest.raises(NoBackendsOnlineError) as caught:
            await pool.acquire(timeout=5)
        assert isinstance(caught.value.__cause__, TypeError)
        assert isinstance(pool.stats().backends["a"].last_error, TypeError)
    assert connector.closed == []


class Slips(Numbers):
    """A connector whose author forgot an ``async`` and a ``return``."""

    def connect(self, backend: Backend) -> Any:
        """A connection, and not a promise of one."""
        return super().connect(backend) if self.closed else object()

    async def is_valid(self, conn: Any) -> bool:
        """Forget to return True."""
        return None  # type: ignore[return-value]


async def test_a_connect_that_is_not_async(autojump_clock: MockClock) -> None:
    """A plain function in the place of a hook has failed, with an error that says what is wrong."""
    connector = Slips(object)
    async with open_plain(connector, policy=policy_of(max_slots=1)) as pool:
        with pytest.raises(NoBackendsOnlineError, match="connect must be async; it returned"):
            await pool.acquire(timeout=5)


async def test_a_plain_function_may_return_an_awaitable(autojump_clock: MockClock) -> None:
    """A hook may be a plain function that passes on what another one returns."""
    connector = Slips(object)
    connector.closed.append(None)
    async with open_plain(connector, policy=policy_of(max_slots=1)) as pool, pool.claim():
        pass


@pytest.mark.parametrize("idle", [False, True])
async def test_a_check_without_a_verdict(autojump_clock: MockClock, idle: bool) -> None:
    """An ``is_valid`` that forgets to return has failed, and the error says so."""
    connector = Slips(object)
    connector.closed.append(None)
    policy = policy_of(max_slots=1, health_interval=10 if idle else math.inf)
    async with open_plain(connector, policy=policy) as pool:
        await pool.wait_ready()
        if not idle:
            (await pool.acquire()).release()
        await trio.sleep(15)
        assert "is_valid returned None" in str(pool.stats().backends["a"].last_error)


class NoTrouble:
    """A resolver's snapshot that is meant for people, not for the pool."""

    trouble = 3


@pytest.mark.parametrize("snapshot", [NoTrouble(), NotImplementedError()])
async def test_a_resolver_that_does_not_tell_its_trouble(
    autojump_clock: MockClock, snapshot: Any
) -> None:
    """A snapshot that has nothing to say, or that fails, does no harm to the error."""

    class Silent(qorb_trio.Resolver):
        async def run(self, updates: Any) -> None:
            """Know of no backend."""

        def snapshot(self) -> object:
            """Return, or raise, the value that the test gave."""
            if isinstance(snapshot, Exception):
                raise snapshot
            return snapshot

    async with (
        trio.open_nursery() as nursery,
        qorb_trio.open_pool(nursery, Silent(), Numbers(object)) as pool,
    ):
        with pytest.raises(qorb_trio.NoBackendsError, match=r"knows no backend$"):
            await pool.acquire(timeout=1)


async def test_the_log_has_tracebacks_for_who_asks(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure is one line in the log; at the level DEBUG, with its traceback."""
    for level, traced in (("INFO", False), ("DEBUG", True)):
        caplog.clear()
        caplog.set_level(level, logger="qorb_trio")
        async with open_plain(Numbers(lambda: None), policy=policy_of(max_slots=1)):
            await trio.sleep(1)
        [first, *_] = [it for it in caplog.records if it.name == "qorb_trio.backend"]
        assert (first.exc_info is not None) is traced


async def test_ff49_connect_returns_an_int(autojump_clock: MockClock) -> None:
    """Connections may be ints: the pool does not look inside."""
    numbers = iter(range(1000, 2000))
    connector = Numbers(lambda: next(numbers))
    async with (
        open_plain(connector, policy=policy_of(max_slots=2)) as pool,
        pool.claim() as one,
        pool.claim() as two,
    ):
        assert {one, two} == {1000, 1001}
    assert sorted(connector.closed) == [1000, 1001]


@pytest.mark.parametrize("names", ["a", "ab"])
async def test_ff49_connect_returns_the_same_object_twice(
    autojump_clock: MockClock, names: str
) -> None:
    """The second `connect` has failed with a `RuntimeError`; one owner, one close."""
    same = object()
    connector = Numbers(lambda: same)
    policy = policy_of(max_slots=3)
    async with open_plain(connector, policy=policy, names=names) as pool:
        await trio.sleep(20)
        stats = pool.stats().backends
        assert sum(one.unclaimed for one in stats.values()) == 1
        assert any(isinstance(one.last_error, RuntimeError) for one in stats.values())
        async with pool.claim() as conn:
            assert conn is same
            with pytest.raises(qorb_trio.AllClaimsUsedError):
                await pool.acquire(timeout=5)
        assert connector.closed == []
    assert connector.closed == [same]


async def test_ff49_the_same_object_after_it_was_closed(autojump_clock: MockClock) -> None:
    """An object that the pool has closed and forgotten may come again."""
    same = object()
    connector = Numbers(lambda: same)
    async with open_plain(connector, policy=policy_of(max_slots=1)) as pool:
        (await pool.acquire()).discard()
        claim = await pool.acquire(timeout=5)
        assert claim.connection is same
        claim.release()
    assert connector.closed == [same, same]
