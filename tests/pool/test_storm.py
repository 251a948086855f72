"""Clients, cancellations, failures and changing backends, all at once and at random."""

from __future__ import annotations

import random

import pytest
import trio

from qorb_trio import ClaimError

from ..harness import (
    HANG,
    OK,
    Bench,
    Do,
    Hook,
    LedgerConnector,
    PlainLedgerConnector,
    backends,
    base_seed,
    fails,
    open_bench,
    policy_of,
    run,
    slow,
)

HOOKS: tuple[Hook, ...] = ("connect", "is_valid", "on_acquire", "on_recycle", "disconnect")
TROUBLE = [OK, Do(steps=2), slow(0.3), slow(3), fails(OSError), fails(OSError, after=0.5), HANG]


async def client(bench: Bench, rng: random.Random) -> None:
    """Use a connection once, with a random failure of any kind."""
    with trio.move_on_after(rng.choice([0, 0.1, 1, 5, 100])):
        try:
            async with bench.claim(timeout=rng.choice([0, 0.2, 2, 20])) as conn:
                conn.begin()
                await trio.sleep(rng.choice([0, 0.01, 0.5, 3]))
                if rng.random() < 0.1:
                    raise LookupError
                conn.finish()
                conn.broken = rng.random() < 0.1
        except (ClaimError, LookupError):
            return


async def by_hand(bench: Bench, rng: random.Random) -> None:
    """The same with `acquire`, given back by another task or discarded."""
    try:
        claim = await bench.acquire(timeout=rng.choice([0, 2, 20]))
    except ClaimError:
        return
    bench.ledger.give(claim.connection)
    if rng.random() < 0.5:
        claim.discard()
    else:
        claim.release()


def upset(bench: Bench, rng: random.Random, names: str) -> None:
    """Change what one hook does, break a spare, or change the set of backends."""
    what = rng.randrange(6)
    if what < 3:
        hook = rng.choice(HOOKS)
        backend = rng.choice([None, *names])
        bench.script.always(hook, rng.choice(TROUBLE), backend=backend)
    elif what == 3:
        for conn in bench.ledger.idle[: rng.randrange(4)]:
            conn.broken = True
    else:
        bench.resolver.set(backends("".join(rng.sample(names, rng.randrange(len(names) + 1)))))


async def storm(kind: type[PlainLedgerConnector], seed: int) -> None:
    """A hundred clients and thirty upsets; afterwards, all is well again."""
    rng = random.Random(f"{base_seed()} {seed}")
    names = "abcd"[: rng.randrange(1, 5)]
    policy = policy_of(
        max_slots=rng.randrange(1, 8),
        max_count=rng.randrange(1, 6),
        spares_wanted=rng.randrange(0, 5),
        health_interval=rng.choice([0.7, 5, 30]),
        rebalance_interval=rng.choice([3, 60]),
        connect_timeout=2,
        health_check_timeout=1,
        disconnect_timeout=rng.choice([0, 0.5]),
        max_connection_backoff=2,
        drain_timeout=rng.choice([0, 1, 50]),
    )
    async with open_bench(names, connector=kind(), policy=policy) as bench:
        for _ in range(100):
            bench.nursery.start_soon(rng.choice([client, client, by_hand]), bench, rng)
            if rng.random() < 0.3:
                upset(bench, rng, names)
            if rng.random() < 0.7:
                await trio.sleep(rng.choice([0, 0.05, 1]))
        for hook in HOOKS:
            for backend in (None, *names):
                bench.script.always(hook, OK, backend=backend)
        bench.resolver.set(backends(names))
        await bench.settle(150)
        assert bench.stats().waiting == bench.count("claimed") == 0
        room = min(policy.max_slots, policy.set_config.max_count * len(names))
        held = [await bench.acquire(timeout=20) for _ in range(room)]
        for claim in held:
            bench.release(claim)
        if rng.random() < 0.5:
            for _ in range(10):
                bench.nursery.start_soon(client, bench, rng)


@pytest.mark.parametrize("kind", [LedgerConnector, PlainLedgerConnector])
@pytest.mark.parametrize("seed", range(25))
def test_storm(kind: type[PlainLedgerConnector], seed: int) -> None:
    """Every invariant of the contract holds after every single step of a random storm."""
    run(storm, kind, seed, seed=seed)
