"""The coverage-guided fuzzer itself: that it can be run, and finds nothing in seconds."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import dns.message
import dns.rrset
import pytest

from . import target

ROOT = Path(__file__).parents[2]


def seeds() -> list[bytes]:
    """Good inputs to begin with: an SRV answer, its addresses, NXDOMAIN."""
    found = []
    for index, (rdtype, text) in enumerate(
        [("SRV", "1 1 6001 echo001.test.com."), ("A", "10.0.0.1"), ("AAAA", "::1")]
    ):
        name = target.QUERIES[rdtype].question.name
        message = dns.message.make_response(dns.message.make_query(name, rdtype))
        message.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", rdtype, text))
        wire = message.to_wire()
        found.append(bytes([index]) + len(wire).to_bytes(2, "big") + wire)
        message.answer.clear()
        message.set_rcode(3)  # type: ignore[arg-type]
        wire = message.to_wire()
        found.append(bytes([index]) + len(wire).to_bytes(2, "big") + wire)
    return [*found, b"".join(found)]


def test_the_target() -> None:
    """The fuzzer's entry takes its seeds, parts of them, and nothing at all."""
    for seed in seeds():
        for size in range(0, len(seed), 7):
            target.one_input(seed[:size])
        target.one_input(seed)


@pytest.mark.real
@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="Python package atheris is not installed",
)
def test_a_short_run(tmp_path: Path) -> None:
    """Three thousand inputs of atheris, if it is installed, find nothing."""
    for number, seed in enumerate(seeds()):
        (tmp_path / str(number)).write_bytes(seed)
    command = [sys.executable, "-m", "tests.fuzz.fuzz_dns", "-runs=3000", "-seed=1", str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT, timeout=120)
