"""The nameservers of one run: which there are, and in which order to ask them. No I/O."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, final

import attrs

from ..._model.backend import Backend
from .records import Question
from .servers import Server
from .snapshot import NameserverSnapshot

#: The maximum number of dynamic nameservers in use. Others are used when one of these fails.
MAX_DYNAMIC: Final = 8

# A server that fails where another answers is asked last for this many seconds; twice as long
# each time it happens again. Long enough that trying it anew costs little.
_DEMOTION = 30.0
_LONGEST_DEMOTION = 600.0


@attrs.define
class _Health:
    demoted_until: float | None = None
    demotion: float = 0
    last_error: str | None = None
    has_answered: bool = False


@final
class ServerBook:
    """The nameservers, how they have done, and hence the order in which to ask them.

    A dynamic server comes before a bootstrap one, the one that last had records for a
    question before others, then the one preferred overall; one that has been demoted
    comes after all that have not. A bootstrap server comes right after the dynamic servers
    that are known to work, or after the first one, so that a list of dead dynamic servers
    costs one delay and not one for each.
    """

    def __init__(self, bootstrap: Sequence[Server]) -> None:
        self._bootstrap = tuple(bootstrap)
        self._dynamic: tuple[Server, ...] = ()
        self._unused: deque[Server] = deque()
        self._health: dict[Server, _Health] = {server: _Health() for server in bootstrap}
        self._preferred: Server | None = None
        self._favourites: dict[Question, Server] = {}

    @property
    def servers(self) -> tuple[Server, ...]:
        """All nameservers in use, dynamic ones first."""
        return tuple(dict.fromkeys((*self._dynamic, *self._bootstrap)))

    def set_bootstrap(self, servers: Sequence[Server]) -> None:
        """Replace the bootstrap nameservers; those that have left are asked no more."""
        self._bootstrap = tuple(servers)
        self._forget_departed()

    def set_dynamic(self, backends: Iterable[Backend]) -> None:
        """Replace the dynamic nameservers; those that have left are asked no more.

        At most `MAX_DYNAMIC` are in use, the best ones by priority and weight.
        """
        ranked = sorted(backends, key=lambda one: (one.priority, -one.weight, one.name))
        servers = dict.fromkeys(
            Server(*one.address) for one in ranked if not isinstance(one.address, str)
        )
        self._dynamic = tuple(servers)[:MAX_DYNAMIC]
        self._unused = deque(tuple(servers)[MAX_DYNAMIC:])
        self._forget_departed()

    def _forget_departed(self) -> None:
        servers = self.servers
        self._health = {server: self._health.get(server) or _Health() for server in servers}
        self._favourites = {q: s for q, s in self._favourites.items() if s in self._health}

    def order(self, question: Question, now: float) -> list[Server]:
        """Return the nameservers in the order in which `question` should be asked of them."""
        self._replace_failed(now)
        return self._ordered(question, now)

    def _ordered(self, question: Question, now: float) -> list[Server]:
        favourite = self._favourites.get(question)

        def rank(server: Server) -> tuple[bool, ...]:
            return (
                self.is_demoted(server, now),
                server not in self._dynamic,
                server != favourite,
                server != self._preferred,
                not self._health[server].has_answered,
            )

        servers = self.servers
        if len(servers) == 1:
            return list(servers)
        ordered = sorted(servers, key=rank)
        return self._with_early_bootstrap(ordered, now) if self._dynamic else ordered

    def _with_early_bootstrap(self, ordered: list[Server], now: float) -> list[Server]:
        first = next((s for s in ordered if s not in self._dynamic), None)
        if first is None or self.is_demoted(first, now):
            return ordered
        works = itertools.takewhile(lambda s: self._works(s, now), ordered)
        place = max(1, sum(server in self._dynamic for server in works))
        if ordered.index(first) > place:
            ordered.remove(first)
            ordered.insert(place, first)
        return ordered

    def _works(self, server: Server, now: float) -> bool:
        return self._health[server].has_answered and not self.is_demoted(server, now)

    def _replace_failed(self, now: float) -> None:
        """Put an unused dynamic server in the place of one whose demotion has ended."""
        for index, server in enumerate(self._dynamic if self._unused else ()):
            health = self._health[server]
            if server in self._bootstrap or health.demoted_until is None:
                continue
            if health.demoted_until <= now:
                successor = self._unused.popleft()
                self._unused.append(server)
                self._dynamic = (*self._dynamic[:index], successor, *self._dynamic[index + 1 :])
                self._forget_departed()
                self._health[successor].demotion = health.demotion

    def is_demoted(self, server: Server, now: float) -> bool:
        """Return True if a server is asked last, and waited for by none."""
        health = self._health.get(server)
        return (
            health is not None and health.demoted_until is not None and now < health.demoted_until
        )

    def answered(self, server: Server) -> None:
        """Note that a server has given an answer, of whatever kind."""
        if server in self._health:  # it may have left meanwhile
            self._health[server] = _Health(has_answered=True)

    def failed(self, server: Server, error: str) -> None:
        """Note that a server has failed to answer; that alone does not demote it."""
        if (health := self._health.get(server)) is not None:
            health.last_error = error

    def demote(self, server: Server, now: float) -> None:
        """Ask a server last for a while: it was slow or failed where another answered."""
        health = self._health.get(server)
        if health is None or self.is_demoted(server, now):
            return
        health.has_answered = False
        health.demotion = min(health.demotion * 2 or _DEMOTION, _LONGEST_DEMOTION)
        health.demoted_until = now + health.demotion

    def prefer(self, question: Question, server: Server, now: float) -> None:
        """Stay with a server for `question`, because it had the answer."""
        if server not in self._health:
            return
        self._favourites[question] = server
        preferred = self._preferred
        if preferred not in self._health or self.is_demoted(preferred, now):
            self._preferred = server

    def forget(self, question: Question) -> None:
        """Forget a question that will not be asked any more."""
        self._favourites.pop(question, None)

    def snapshot(self, now: float) -> tuple[NameserverSnapshot, ...]:
        """Return all nameservers for a person to look at, the next to be asked first."""
        servers = self._ordered(Question("", ""), now)
        return tuple(self._describe(server, now) for server in servers)

    def _describe(self, server: Server, now: float) -> NameserverSnapshot:
        health = self._health[server]
        return NameserverSnapshot(
            address=str(server),
            dynamic=server in self._dynamic,
            demoted_until=health.demoted_until if self.is_demoted(server, now) else None,
            last_error=health.last_error,
        )
