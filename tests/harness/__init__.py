"""Tools for the tests of the pool: a ledger, invariants, a bench, and a sweep.

Everything runs on ``MockClock(autojump_threshold=0)``. The connector keeps the ledger,
independently of the pool's own state; `InvariantInstrument` compares the two after every
single task step.

Replaying. Trio shuffles the tasks of each batch with a random source of its own, and so
the same test may take another path each time. `seed_scheduler` makes that source, and with
it the whole run, repeatable: every test is seeded from its own name
and from ``QORB_TEST_SEED`` (default 0), and `run` and `sweep` from the seed that they are
given. So, to look for rare schedules, and then to replay the one that failed::

    for seed in $(seq 100); do QORB_TEST_SEED=$seed pytest tests/pool || break; done
    QORB_TEST_SEED=<the last one> pytest tests/pool -k <the test>
"""

from .bench import Bench as Bench, ManualSets as ManualSets, open_bench as open_bench
from .invariants import (
    EVENTS as EVENTS,
    EventLog as EventLog,
    InvariantInstrument as InvariantInstrument,
)
from .ledger import (
    HANG as HANG,
    OK as OK,
    Do as Do,
    Hook as Hook,
    Ledger as Ledger,
    LedgerConnection as LedgerConnection,
    LedgerConnector as LedgerConnector,
    PlainLedgerConnector as PlainLedgerConnector,
    fails as fails,
    slow as slow,
)
from .replay import (
    Sweep as Sweep,
    When as When,
    base_seed as base_seed,
    run as run,
    seed_scheduler as seed_scheduler,
    sweep as sweep,
)
from .sets import backends as backends, policy_of as policy_of
