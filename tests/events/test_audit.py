"""`AuditInstrument`: events for audit hooks, and for probes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from trio.testing import MockClock

from qorb_trio import AuditInstrument, PoolEvent

from ..harness import open_bench, slow


async def test_every_event_is_audited(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each event is audited, by a name that says all, with its duration and the record."""
    heard: list[tuple[str, int, PoolEvent]] = []

    def audit(name: str, micros: int, event: PoolEvent) -> None:
        heard.append((name, micros, event))

    monkeypatch.setattr(sys, "audit", audit)
    async with open_bench(instruments=[AuditInstrument()]) as bench:
        bench.script.next("on_acquire", slow(0.25))
        await bench.use()
    monkeypatch.undo()
    assert [event.name for _, _, event in heard] == [name for name, _ in bench.log.events]
    ((name, micros, event),) = [one for one in heard if one[2].name == "claim_done"]
    assert name == f"qorb_trio.{event}"
    assert name.startswith("qorb_trio.claim_done pool=pool claim_id=")
    assert micros == pytest.approx(250_000, abs=1)
    assert all(type(micros) is int and micros >= 0 for _, micros, _ in heard)


PROGRAM = """
import sys, trio, qorb_trio
from qorb_trio.testing import FakeConnector, ManualResolver

def hook(name, args):
    if name.startswith("qorb_trio.claim"):
        print(name)

async def main():
    async with trio.open_nursery() as nursery:
        resolver, watching = ManualResolver(["a.test:80"]), [qorb_trio.AuditInstrument()]
        async with qorb_trio.open_pool(
            nursery, resolver, FakeConnector(), name="db", instruments=watching
        ) as pool:
            async with pool.claim():
                pass

sys.addaudithook(hook)
trio.run(main)
"""


@pytest.mark.real
def test_an_audit_hook_hears_it() -> None:
    """A hook of the interpreter gets the events; it cannot be removed, so not in this process."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    start, end = done.stdout.splitlines()
    assert start.startswith("qorb_trio.claim_start pool=db claim_id=")
    assert start.replace("start", "done") in end
    assert "backend=a.test:80" in end
