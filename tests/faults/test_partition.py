"""A cut link, where this machine lets us have a network namespace to cut it in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .left import PATIENCE

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
#: The first commands of the program, which a container may forbid.
PROBE = "ip link add here type veth peer name there && exec unshare --net true"


@pytest.fixture
def own_network() -> list[str]:
    """The command that gives a program a network of its own, or skip the test."""
    for program in ("ip", "unshare", "nsenter"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    reason = ""
    # Root may do without a namespace of users, which some systems give to nobody.
    for prefix in (["unshare", "--user", "--map-root-user", "--net"], ["unshare", "--net"]):
        tried = subprocess.run(
            [*prefix, "sh", "-c", PROBE], capture_output=True, text=True, timeout=60, check=False
        )
        if tried.returncode == 0:
            return prefix
        reason = tried.stderr.strip()
    pytest.skip(f"not permitted here: a network namespace ({reason})")


def test_ff13_a_cut_link(own_network: list[str]) -> None:
    """The cable to a server is pulled, at either end: the other serves, then both do again."""
    command = [*own_network, sys.executable, "-m", "tests.faults.partition"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=4 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout
