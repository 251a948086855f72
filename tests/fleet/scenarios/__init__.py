"""The scenarios of a fleet, in the order of the page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import final

import attrs

from ..findings import Findings
from ..fleet import Size
from . import ageing, changing, claiming, names, starting


@final
@attrs.frozen
class Scenario:
    """One scenario, and how it is made affordable."""

    story: Callable[[Size], Awaitable[Findings]]
    title: str
    text: str
    #: About how many seconds of CPU each client costs, to order the scenarios.
    cost: float
    #: The maximum number of clients that are simulated.
    max_clients: int = 1000
    max_backends: int = 1000

    @property
    def name(self) -> str:
        """The name on the command line."""
        return self.story.__name__.replace("_", "-")

    def sized(self, size: Size) -> Size:
        """Return the size at which the scenario is run."""
        return attrs.evolve(
            size,
            clients=min(size.clients, self.max_clients),
            backends=min(size.backends, self.max_backends),
        )


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            starting.cold_start,
            "Cold start",
            "All clients start at random times within 5 s.",
            cost=0.015,
        ),
        Scenario(
            starting.restart_all,
            "Restart of everything",
            "All backends are down for 10 s, and come back at the same instant. Each client notices"
            " at once, and makes no claims meanwhile, so that it backs off.",
            cost=0.5,
        ),
        Scenario(
            starting.restart_busy,
            "Restart of everything under load",
            "All backends are down for 3 s, while each client makes two claims per second, so that"
            " claims wait in all clients.",
            max_clients=100,
            max_backends=100,
            cost=0.3,
        ),
        Scenario(
            changing.rolling_restart,
            "Rolling restart, drained",
            "2 % of the backends at a time leave the resolver's set, stop two seconds later, and"
            " return after another two. Clients make a claim every two seconds.",
            cost=0.2,
        ),
        Scenario(
            changing.rolling_kill,
            "Rolling restart without draining",
            "2 % of the backends at a time are killed, and return after two seconds.",
            cost=0.12,
        ),
        Scenario(
            changing.third_lost,
            "Loss of a third",
            "A third of the backends fails at one instant. Half of them refuse, half of them hang."
            " The resolver keeps sending all of them.",
            cost=0.12,
        ),
        Scenario(
            changing.doubled,
            "Doubling",
            "The resolver's set is doubled while the clients run.",
            cost=0.05,
        ),
        Scenario(
            claiming.slow_backend,
            "A slow backend",
            "One backend is ten times slower. Its clients use four backends each (`subset(4)`),"
            " with four connections to each, and make 40 claims per second.",
            cost=0.012,
        ),
        Scenario(
            claiming.failing_backend,
            "A backend that fails fast",
            "One backend answers each request with an error after a millisecond.",
            cost=0.012,
        ),
        Scenario(
            changing.weights,
            "Weights",
            "The backends have the weights 1, 2 and 4 in turn.",
            cost=0.05,
        ),
        Scenario(
            names.dns,
            "Bad answers of the DNS",
            "Ten records with a TTL of 30 s, and real resolvers over simulated nameservers. Answers"
            " come late (up to 12 s), not at all, with three of the ten records, or with half of"
            " them in every other TTL: twenty minutes each.",
            max_clients=100,
            cost=2,
        ),
        Scenario(
            ageing.health_checks,
            "Health checks of a fleet that started together",
            "All clients start within 5 s, and each idle connection is checked every 30 s.",
            max_clients=200,
            cost=0.6,
        ),
        Scenario(
            ageing.lifetimes,
            "Lifetimes of a fleet that started together",
            "All clients start within 5 s, and each connection lives for at most half an hour.",
            cost=0.3,
        ),
        Scenario(
            starting.thundering_return,
            "A thundering return",
            "A service of four backends with 200 clients is down for two minutes: once without"
            " claims, and once while each client makes a claim per second.",
            max_clients=200,
            max_backends=4,
            cost=0.5,
        ),
    )
}
