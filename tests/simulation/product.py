"""Each hook well, failing, slow or hanging, in every combination, under hasty claimants."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable

import trio

from qorb_trio import ClaimError

from ..harness import HANG, OK, Bench, Do, LedgerConnector, fails, open_bench, policy_of, run, slow
from .statements import NineStatements
from .worlds import HOOKS

BEHAVIOURS: dict[str, Do] = {"ok": OK, "error": fails(OSError), "slow": slow(0.5), "never": HANG}

#: The 1,024 combinations of the behaviours of the five hooks.
PRODUCT = list(itertools.product(BEHAVIOURS, repeat=len(HOOKS)))


async def _claimant(bench: Bench, number: int) -> None:
    for _ in range(3):
        with trio.move_on_after(0.15 * number):
            try:
                async with bench.claim(timeout=0.4):
                    await trio.sleep(0.1)
            except ClaimError:
                continue


async def _scenario(behaviours: tuple[str, ...]) -> None:
    connector = LedgerConnector()
    for hook, behaviour in zip(HOOKS, behaviours, strict=True):
        connector.script.always(hook, BEHAVIOURS[behaviour])
    policy = policy_of(
        max_slots=4,
        max_count=3,
        spares_wanted=1,
        health_interval=0.5,
        rebalance_interval=1,
        connect_timeout=1,
        health_check_timeout=1,
        disconnect_timeout=1,
        drain_timeout=1,
    )
    async with open_bench(
        "ab", connector=connector, policy=policy, watch_with=NineStatements
    ) as bench:
        watch = bench.watch
        assert isinstance(watch, NineStatements)
        connector.ledger.on_note = watch.heard
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(_claimant, bench, number)
        for hook in HOOKS:
            bench.script.always(hook, OK)
        await bench.settle(10)
        await bench.use(timeout=5)
        assert bench.stats().waiting == bench.count("claimed") == 0
        await bench.settle(1)
        watch.ending = True


def play_product(combinations: Iterable[tuple[str, ...]] = PRODUCT) -> int:
    """Play these; raise at the first that breaks a promise, or return how many there were."""
    count = 0
    for behaviours in combinations:
        try:
            run(_scenario, behaviours)
        except BaseException as exc:
            exc.add_note(f"with {dict(zip(HOOKS, behaviours, strict=True))}")
            raise
        count += 1
    return count


def main() -> None:
    """All of them."""
    sys.stdout.write(f"{play_product():,} combinations of {len(HOOKS)} hooks: 0 violations\n")
