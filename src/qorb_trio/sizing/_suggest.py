"""`suggest`: a policy for many clients, and what to expect of it. Pure."""

from __future__ import annotations

import math
from typing import Final, final

import attrs

from .. import _validation as _check
from .._model.policy import Policy, SetConfig
from ._erlang import Queue, slots_for

#: Slots beyond those that serve claims: one may probe a backend that fails, or close.
_PROBE_SLOTS: Final = 1

#: The age at which connections are replaced unless that is too often, in seconds.
_LIFETIME: Final = 1800.0

#: Connections are replaced at an age between three quarters of ``max_lifetime`` and all of it.
_MEAN_AGE: Final = 0.875

#: Backends per slot of a subset.
_SUBSET_PER_SLOT: Final = 2

#: Connects per second of one backend that the replacement of old connections may cause.
_MAX_CONNECT_RATE: Final = 1.0


@final
@attrs.frozen
class Sizing:
    """A suggested policy for each client of a fleet, and what to expect of it.

    Made by `suggest`.
    """

    clients: int
    """Number of clients, each with a pool."""

    backends: int
    """Number of backends, all of the same weight."""

    queue: Queue
    """The claims of one client as a queue, for waiting times. One slot of ``max_slots`` does not
    count, because it may be used for a probe."""

    policy: Policy
    """The suggested numbers: ``max_slots``, ``spares_wanted`` and ``max_lifetime``."""

    @property
    def connections_per_client(self) -> int:
        """The number of connections that each client keeps open."""
        return self.policy.max_slots

    @property
    def connections_per_backend(self) -> float:
        """The mean number of connections to one backend."""
        return self.clients * self.connections_per_client / self.backends

    @property
    def busiest_backend(self) -> int:
        """The expected number of connections to the busiest backend.

        Each client chooses its backends at random, so these numbers are binomial. In half of
        all cases, some backend has more than this.
        """
        whole, rest = divmod(self.connections_per_client, self.backends)
        chosen = _binomial_bound(self.clients, rest / self.backends, 0.5 / self.backends)
        return self.clients * whole + chosen

    @property
    def spread(self) -> float:
        """The number of connections to the busiest backend, divided by the mean."""
        return self.busiest_backend / self.connections_per_backend

    @property
    def requests_per_backend(self) -> float:
        """The mean number of claims that one backend serves at a time."""
        return self.clients * self.queue.load / self.backends

    @property
    def connects_per_backend(self) -> float:
        """The number of connects per second of one backend that replace old connections."""
        lifetime = self.policy.set_config.max_lifetime
        return self.connections_per_backend / (_MEAN_AGE * lifetime)

    @property
    def backends_per_client(self) -> int:
        """The number of backends that a client is connected to at a time.

        A pool with fewer slots than backends uses some of them, and moves one connection per
        ``rebalance_interval``, so that in the long run it uses all.
        """
        return min(self.backends, self.connections_per_client)

    @property
    def subset_size(self) -> int | None:
        """The size for `subset`, where each backend should know few clients; else `None`.

        It is two backends per slot, so that a client can lose some of them. `None` means that
        the client may as well know all backends.
        """
        size = _SUBSET_PER_SLOT * self.policy.max_slots
        return size if size < self.backends else None


def suggest(
    clients: int, backends: int, rate: float, hold: float, *, waiting: float = 0.01
) -> Sizing:
    """Suggest a policy for each client of a fleet.

    ``max_slots`` is the smallest number at which at most `waiting` of the claims have to wait,
    and one more, because one slot may be used for a probe. ``spares_wanted`` is such that a
    client with the usual number of claims has all of its connections open. ``max_lifetime`` is
    1,800 seconds, or longer if a backend would have more than one connect per second.

    Args:
      clients: number of clients, each with a pool.
      backends: number of backends.
      rate: number of claims per second of one client.
      hold: the mean time for which a claim is held, in seconds.
      waiting: the largest part of the claims that may have to wait; 1 % by default.

    Raises:
      TypeError, ValueError: naming the argument that is wrong.
    """
    _check.count("clients", clients, least=1)
    _check.count("backends", backends, least=1)
    slots = slots_for(rate, hold, waiting=waiting)
    queue = Queue(slots, rate, hold)
    max_slots = slots + _PROBE_SLOTS
    shortest = clients * max_slots / backends / (_MEAN_AGE * _MAX_CONNECT_RATE)
    policy = Policy(
        max_slots=max_slots,
        spares_wanted=max_slots - math.floor(queue.load),
        set_config=SetConfig(
            max_count=max(SetConfig().max_count, math.ceil(max_slots / backends)),
            max_lifetime=max(_LIFETIME, math.ceil(shortest)),
        ),
    )
    return Sizing(clients, backends, queue, policy)


def _binomial_bound(trials: int, chance: float, risk: float) -> int:
    """Return the smallest count that a binomial number exceeds with a chance of at most `risk`."""
    if chance == 0:
        return 0
    log_odds = math.log(chance / (1 - chance))
    log_term = trials * math.log1p(-chance)
    below = math.exp(log_term)
    count = 0
    while 1 - below > risk and count < trials:
        log_term += math.log((trials - count) / (count + 1)) + log_odds
        below += math.exp(log_term)
        count += 1
    return count
