"""`qorb_trio.sizing`: the formulas, the suggestion, and their agreement with real pools."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from fractions import Fraction

import attrs
import pytest
import trio

from qorb_trio import FixedResolver, Policy, open_pool
from qorb_trio.sizing import Queue, slots_for, suggest
from qorb_trio.sizing.__main__ import main
from qorb_trio.sizing._suggest import _binomial_bound
from qorb_trio.testing import FakeConnector

from ..fleet.fleet import Size, fleet_of, run
from ..fleet.measures import spread


def erlang_c(slots: int, load: Fraction) -> Fraction:
    """Erlang's C formula as in the textbook."""
    last = load**slots / math.factorial(slots) * slots / (slots - load)
    return last / (sum(load**n / math.factorial(n) for n in range(slots)) + last)


@pytest.mark.parametrize(("slots", "load"), [(1, 0.5), (2, 0.8), (5, 4.0), (16, 12.5), (80, 60.0)])
def test_the_formula_of_erlang(slots: int, load: float) -> None:
    """The probability and the mean of waiting are those of the textbook's sums."""
    queue = Queue(slots, load / 0.02, 0.02)
    expected = float(erlang_c(slots, Fraction(load)))
    assert queue.waiting_probability == pytest.approx(expected)
    assert queue.mean_wait == pytest.approx(expected * 0.02 / (slots - load))
    assert queue.utilisation == pytest.approx(load / slots)


def test_many_slots_do_not_overflow() -> None:
    """The formula works for thousands of connections."""
    assert 0 < Queue(10_000, 9_900, 1.0).waiting_probability < 1


def test_quantiles_of_the_wait() -> None:
    """Claims that find a free connection do not wait, the others for an exponential time."""
    queue = Queue(1, 5, 0.1)
    assert queue.wait_quantile(0.5) == 0
    assert queue.wait_quantile(0.9) == pytest.approx(math.log(5) * 0.1 / 0.5)
    assert queue.wait_quantile(1) == math.inf


def test_overload() -> None:
    """With more claims than the connections can serve, all wait, for ever longer times."""
    queue = Queue(2, 20, 0.1)
    assert (queue.waiting_probability, queue.mean_wait) == (1, math.inf)
    assert queue.wait_quantile(0.1) == math.inf


@pytest.mark.parametrize("waiting", [0.5, 0.01, 0.001])
def test_slots_for_few_waits(waiting: float) -> None:
    """The number is the smallest one at which few enough claims wait."""
    slots = slots_for(400, 0.02, waiting=waiting)
    assert Queue(slots, 400, 0.02).waiting_probability <= waiting
    assert Queue(slots - 1, 400, 0.02).waiting_probability > waiting


def test_a_suggestion() -> None:
    """The example of the documentation."""
    sizing = suggest(clients=200, backends=50, rate=40, hold=0.02)
    assert sizing.policy.max_slots == sizing.queue.slots + 1 == 5
    assert sizing.policy.spares_wanted == 5
    assert sizing.policy.set_config.max_lifetime == 1800
    assert sizing.connections_per_backend == 20
    assert sizing.requests_per_backend == pytest.approx(3.2)
    assert sizing.backends_per_client == 5
    assert sizing.subset_size == 10
    assert suggest(200, 10, 40, 0.02).subset_size is None


def test_many_clients_of_one_backend() -> None:
    """Old connections are replaced rarely enough, and `max_count` suffices."""
    sizing = suggest(clients=5000, backends=1, rate=2000, hold=0.03)
    assert sizing.policy.set_config.max_count == sizing.policy.max_slots > 16
    assert sizing.connects_per_backend == pytest.approx(1, rel=0.01)
    assert sizing.spread == 1


def test_the_bound_of_a_binomial_number() -> None:
    """The bound is the smallest count that is exceeded with at most the given chance."""

    def above(count: int) -> float:
        return sum(math.comb(20, n) * 0.3**n * 0.7 ** (20 - n) for n in range(count + 1, 21))

    bound = _binomial_bound(20, 0.3, 0.01)
    assert above(bound) <= 0.01 < above(bound - 1)
    assert _binomial_bound(20, 0, 0.01) == 0
    assert _binomial_bound(3, 0.999, 1e-12) == 3


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("clients", (0, 1, 1, 1)),
        ("backends", (1, 0, 1, 1)),
        ("rate", (1, 1, 0, 1)),
        ("hold", (1, 1, 1, -1)),
    ],
)
def test_a_wrong_argument_is_named(field: str, arguments: tuple[int, int, float, float]) -> None:
    """An error names the argument that is wrong."""
    with pytest.raises(ValueError, match=f"^{field} "):
        suggest(*arguments)
    with pytest.raises(ValueError, match=r"^waiting "):
        slots_for(1, 1, waiting=0)


# ------------------------------------------------------------------- against the simulation


@pytest.mark.parametrize(("slots", "rate"), [(2, 60), (5, 200)])
async def test_a_pool_waits_as_the_formula_says(
    slots: int, rate: float, autojump_clock: trio.testing.MockClock
) -> None:
    """The utilisation and the mean wait of a real pool are within 20 % of the formula's."""
    hold, claims, rng = 0.02, 12_000, random.Random(4)
    waits: list[float] = []
    held: list[float] = []

    async def claim() -> None:
        began = trio.current_time()
        async with pool.claim():
            waits.append(trio.current_time() - began)
            held.append(rng.expovariate(1 / hold))
            await trio.sleep(held[-1])

    policy = Policy(max_slots=slots, spares_wanted=slots)
    async with trio.open_nursery() as nursery:
        resolver, connector = FixedResolver(["a.test:1", "b.test:1"]), FakeConnector()
        async with (
            open_pool(nursery, resolver, connector, policy=policy, rng=rng) as pool,
            trio.open_nursery() as claimants,
        ):
            await pool.wait_ready(slots)
            began = trio.current_time()
            for _ in range(claims):
                claimants.start_soon(claim)
                await trio.sleep(rng.expovariate(rate))
            seconds = trio.current_time() - began
    queue = Queue(slots, rate, hold)
    assert sum(held) / seconds / slots == pytest.approx(queue.utilisation, rel=0.2)
    assert sum(waits) / claims == pytest.approx(queue.mean_wait, rel=0.2)
    waiting = sum(wait > 0 for wait in waits) / claims
    assert waiting == pytest.approx(queue.waiting_probability, rel=0.2)


@pytest.mark.parametrize("seed", range(2))
def test_a_fleet_connects_as_the_suggestion_says(seed: int) -> None:
    """Connections per backend and their spread are within 20 % of the expectation."""
    sizing = suggest(clients=60, backends=20, rate=40, hold=0.02)

    async def story() -> list[int]:
        async with fleet_of(Size(sizing.clients, sizing.backends, seed)) as fleet:
            await fleet.open(policy=sizing.policy)
            await trio.sleep(5)
            return fleet.counts()

    counts = run(story, seed=seed)
    mean = sum(counts) / len(counts)
    assert mean == pytest.approx(sizing.connections_per_backend, rel=0.2)
    assert spread(counts) == pytest.approx(sizing.spread, rel=0.2)


# ---------------------------------------------------------------------------- the command


def test_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints the policy and one line for each expectation."""
    assert main(["--clients=200", "--backends=50", "--rate=40", "--hold=0.02"]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == str(suggest(200, 50, 40, 0.02).policy)
    assert "  utilisation of a connection                         20 %" in rest
    assert all(line.startswith("  ") for line in rest)


def test_wrong_arguments_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The command names a wrong argument, and its status is 2."""
    with pytest.raises(SystemExit) as caught:
        main(["--clients=0", "--backends=50", "--rate=40", "--hold=0.02"])
    assert caught.value.code == 2
    assert "clients must be at least 1" in capsys.readouterr().err


@pytest.mark.real
def test_the_command_as_a_program() -> None:
    """``python -m qorb_trio.sizing`` runs."""
    options = ["--clients", "10", "--backends", "5", "--rate", "1", "--hold", "1"]
    result = subprocess.run(
        [sys.executable, "-m", "qorb_trio.sizing", *options],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert result.stdout.startswith("Policy(")


def test_a_sizing_is_frozen() -> None:
    """A sizing is a value."""
    sizing = suggest(1, 1, 1, 1)
    assert sizing == suggest(1, 1, 1, 1)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        sizing.clients = 2  # type: ignore[misc]
