"""`ProbedResolver`: only the backends that pass a probe, such as the primary of a database."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Final, Literal, NoReturn, TypeAlias, final

import attrs
import trio

from .. import _validation as _check
from .._model.backend import Backend
from .._util import log_safely, printable, safe_str
from ..abc import Resolver
from ._relay import Sets, Updates, in_full, run_around

#: Tells whether a backend is one of those that the pool should use.
Probe: TypeAlias = Callable[[Backend], Awaitable[bool]]

#: See `ProbedBackend.state`.
ProbeState: TypeAlias = Literal["yes", "no", "unknown"]

_LOGGER: Final = logging.getLogger("qorb_trio.resolver")

# Each pause is shorter by up to this share of it, so that clients that started together do
# not probe together for ever.
_JITTER = 0.1

# The minimum time between two lines of the log about one backend, in seconds.
_LOG_INTERVAL = 60.0


@final
@attrs.frozen
class ProbedBackend:
    """One backend as a `ProbedResolver` knows it. Times are those of `trio.current_time`."""

    backend: Backend
    """The backend."""

    state: ProbeState
    """The outcome of the last probe: "yes", "no", or "unknown" if it raised an exception, took
    too long, or has not ended yet."""

    included: bool
    """True if the backend is in the set that the pool uses."""

    probed_at: float | None
    """The time at which the last probe ended; `None` before the first."""

    last_error: str | None
    """The reason why the last probe had no outcome."""


@final
@attrs.frozen
class ProbedSnapshot:
    """Everything that a `ProbedResolver` knows at one moment."""

    backends: tuple[ProbedBackend, ...]
    """Every backend that the other resolver names, in its order."""

    resolution: object
    """The snapshot of the other resolver."""

    @property
    def trouble(self) -> str | None:
        """The reason why there is no backend, in one line; `None` if there is one."""
        if any(one.included for one in self.backends):
            return None
        if not self.backends:
            trouble: object = getattr(self.resolution, "trouble", None)
            return trouble if isinstance(trouble, str) else None
        first = next((one for one in self.backends if one.last_error), self.backends[0])
        error = f" ({first.last_error})" if first.last_error else ""
        count = len(self.backends)
        return f"no backend of {count} passes the probe: {first.backend.name}: {first.state}{error}"


def _log(entry: _Entry, error: str) -> None:
    now = trio.current_time()
    if now >= entry.quiet_until:
        entry.quiet_until = now + _LOG_INTERVAL
        name = printable(entry.backend.name)
        text = "probe of %s, which was true before: %s"
        log_safely(_LOGGER, logging.WARNING, text, name, printable(error))


@attrs.frozen
class _Outcome:
    """The outcome of one probe."""

    state: ProbeState
    error: str | None
    began: float
    ended: float


@attrs.define(eq=False, repr=False)
class _Entry:
    """One backend in one run."""

    backend: Backend
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    state: ProbeState = "unknown"
    since: float = -math.inf
    included: bool = False
    probed_at: float | None = None
    last_error: str | None = None
    quiet_until: float = -math.inf


class _Members:
    """The decision which backends are in the set. No I/O."""

    def __init__(self) -> None:
        self.entries: dict[Backend, _Entry] = {}
        #: Until then an empty set is not logged again.
        self.quiet_until = -math.inf

    def update(self, backends: Collection[Backend]) -> tuple[list[_Entry], list[_Entry]]:
        """Take a new set of the other resolver. Returns the entries that come and go."""
        before, self.entries = self.entries, {}
        come = []
        for backend in backends:
            entry = before.pop(backend, None)
            if entry is None:
                entry = _Entry(backend)
                come.append(entry)
            entry.backend = backend  # priority and weight may be others
            self.entries[backend] = entry
        return come, list(before.values())

    def note(self, entry: _Entry, outcome: _Outcome) -> None:
        """Take the outcome of a probe."""
        if outcome.state != entry.state:
            entry.since = outcome.ended
        entry.state, entry.last_error, entry.probed_at = outcome.state, outcome.error, outcome.ended
        if outcome.state != "unknown":
            entry.included = outcome.state == "yes"
        if outcome.state == "yes":
            # A probe that was under way when another one failed says nothing about that: both
            # may have lost the network, and the pool would lose all members but one.
            for one in self.entries.values():
                if one.state == "unknown" and one.since <= outcome.began:
                    one.included = False

    @property
    def included(self) -> tuple[Backend, ...]:
        """The backends in the set."""
        return tuple(one.backend for one in self.entries.values() if one.included)

    @property
    def is_settled(self) -> bool:
        """True if there is a set to send: a member, or the outcome of a probe of each backend."""
        entries = self.entries.values()
        return any(one.included for one in entries) or all(
            one.probed_at is not None for one in entries
        )


@final
class ProbedResolver(Resolver):
    """A resolver that sends the backends for which a probe is true.

    The members of a PostgreSQL cluster, for example, are known by name, but which of them is
    the primary is found out by asking them. A pool over a `ProbedResolver` follows a failover
    within `interval` + `timeout` seconds::

        async def is_primary(backend): ...  # connect, ask, close


        resolver = ProbedResolver(FixedResolver(["db1:5432", "db2:5432"]), is_primary)

    Every backend has a probe of its own, at once when it appears and then every `interval`
    seconds. Its outcome is one of three:

    * true: the backend is in the set;
    * false: it is not;
    * unknown, if the probe raises an `Exception` or takes longer than `timeout`. A backend
      that was in the set stays until the probe of another one is true, so that a network that
      fails between this program and the backends does not empty the pool.

    The first set is sent as soon as one probe is true, or when all have had an outcome. The
    logger ``qorb_trio.resolver`` has a WARNING when the probe of a backend in the set becomes
    unknown, and when no backend passes.

    Args:
      resolver: finds the backends.
      probe: ``await probe(backend)``. It is cancelled after `timeout`, and when the backend
        leaves, and must then close what it has opened.
      interval: the time from the start of a probe to the start of the next one, in seconds; each
        pause is shorter by up to a tenth, at random.
      timeout: the maximum duration of one probe, in seconds.
      rng: the source of that randomness; by default a new one.

    Raises:
      TypeError, ValueError: naming the argument that is wrong.
    """

    def __init__(
        self,
        resolver: Resolver,
        probe: Probe,
        *,
        interval: float = 1,
        timeout: float = 1,
        rng: random.Random | None = None,
    ) -> None:
        _check.instance("resolver", resolver, Resolver)
        if not callable(probe):
            raise TypeError(f"probe must be an async function, not {probe!r}")
        _check.seconds("interval", interval, zero=False, endless=False)
        _check.seconds("timeout", timeout, zero=False)
        self._rng = random.Random() if rng is None else rng
        _check.instance("rng", self._rng, random.Random)
        self._resolver = resolver
        self._probe = probe
        self._interval = interval
        self._timeout = timeout
        self._members = _Members()

    async def run(self, updates: Updates) -> None:
        """Send the set of backends that pass the probe each time that it changes.

        Never returns. Cancelled, it cancels the probes and stops at once. May be run several
        times; each run has probes of its own.

        Raises:
          Exception: what the other resolver raises.
        """
        self._members = members = _Members()
        await run_around(self._resolver, partial(self._send_members, updates, members))

    async def _send_members(
        self, updates: Updates, members: _Members, sets: Sets, nursery: trio.Nursery
    ) -> NoReturn:
        changed = trio.Event()
        sent: list[tuple[object, ...]] | None = None

        def wake() -> None:
            changed.set()

        nursery.start_soon(self._follow, sets, members, wake, nursery)
        while True:
            await changed.wait()
            changed = trio.Event()
            included = members.included
            if members.is_settled and in_full(included) != sent:
                self._log_if_empty(members)
                await updates.send(included)
                sent = in_full(included)

    def _log_if_empty(self, members: _Members) -> None:
        now = trio.current_time()
        if members.entries and not members.included and now >= members.quiet_until:
            members.quiet_until = now + _LOG_INTERVAL
            text = printable(self._snapshot(members).trouble)
            log_safely(_LOGGER, logging.WARNING, "%s", text)

    async def _follow(
        self,
        sets: Sets,
        members: _Members,
        wake: Callable[[], None],
        nursery: trio.Nursery,
    ) -> None:
        """Keep one probe running for each backend that the other resolver names."""
        async for backends in sets:
            come, gone = members.update(backends)
            for entry in gone:
                entry.scope.cancel()
            for entry in come:
                nursery.start_soon(self._keep_probing, entry, members, wake)
            wake()

    async def _keep_probing(
        self, entry: _Entry, members: _Members, wake: Callable[[], None]
    ) -> None:
        with entry.scope:
            while True:
                began = trio.current_time()
                state, error = await self._ask(entry.backend)
                if error is not None and entry.state == "yes":
                    _log(entry, error)
                members.note(entry, _Outcome(state, error, began, trio.current_time()))
                wake()
                pause = self._interval * (1 - _JITTER * self._rng.random())
                await trio.sleep_until(began + pause)

    async def _ask(self, backend: Backend) -> tuple[ProbeState, str | None]:
        with trio.move_on_after(self._timeout):
            try:
                verdict: object = await self._probe(backend)
            except Exception as exc:  # noqa: BLE001 - the user's code; logged where it matters
                return "unknown", f"{type(exc).__name__}: {safe_str(exc)}"
            if verdict is None:
                return "unknown", "the probe returned None, which is neither true nor false"
            return ("yes" if verdict else "no"), None
        return "unknown", f"no outcome within {self._timeout:g} s"

    def snapshot(self) -> ProbedSnapshot:
        """Return the state of each backend, of the run that was started last."""
        return self._snapshot(self._members)

    def _snapshot(self, members: _Members) -> ProbedSnapshot:
        return ProbedSnapshot(
            backends=tuple(
                ProbedBackend(
                    backend=one.backend,
                    state=one.state,
                    included=one.included,
                    probed_at=one.probed_at,
                    last_error=one.last_error,
                )
                for one in members.entries.values()
            ),
            resolution=self._resolver.snapshot(),
        )

    def __repr__(self) -> str:
        return f"ProbedResolver({self._resolver!r}, {self._probe!r})"


# Where users import them from.
ProbedResolver.__module__ = "qorb_trio"
ProbedBackend.__module__ = "qorb_trio.resolvers"
ProbedSnapshot.__module__ = "qorb_trio.resolvers"
