"""The demo: that it shows what it says, and that its account is an honest one."""

from __future__ import annotations

import os
import re
import signal

import pytest
import trio

import qorb_trio
from demo import Demo
from demo_account import Account, Kill, Move, Printer
from echo_claimers import CountingConnector, Outcome

from ._programs import PATIENCE, on_a_terminal, run, running

DEAD = qorb_trio.Backend(("127.0.0.1", 6002), name="echo002")
LIVE = qorb_trio.Backend(("127.0.0.1", 6001), name="echo001")
NEW_ADDRESS = ("127.0.0.2", 6002)
NEW = qorb_trio.Backend(NEW_ADDRESS, name="echo002")
HUNG_UP = ConnectionError("the server hung up")


def outcome(
    backend: qorb_trio.Backend, granted: float, ended: float, error: Exception | None = None
) -> Outcome:
    """Make the outcome of a claim that was granted at once."""
    return Outcome(
        claimer="claimer 1",
        asked=granted,
        granted=granted,
        ended=ended,
        backend=backend,
        error=error,
    )


@pytest.mark.real
async def test_demo_ends_well() -> None:
    """Off a terminal it prints plain lines, kills a server, and reports no failed claim."""
    done = await run("demo.py", "--seconds", "7")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert "\x1b" not in done.stdout
    assert re.search(r"kill -9 \d+: echo002 dies, in the middle of \d+ claims", done.stdout)
    assert re.search(r"echo002 starts again at 127\.0\.0\.[12]:\d+", done.stdout)
    assert re.search(r"failed +0\n", done.stdout)
    assert re.search(r"connections +(\d+) opened, \1 closed", done.stdout)
    assert re.search(r"the pool has found echo002: in use again after \d\.\d s", done.stdout)
    assert done.stdout.endswith("No claim failed.\n")


@pytest.mark.real
async def test_demo_is_colourful_on_a_terminal() -> None:
    """On a terminal there are colours, and --plain switches them off."""
    async with (
        on_a_terminal("demo.py", "--seconds", "60") as colourful,
        on_a_terminal("demo.py", "--seconds", "60", "--plain") as plain,
    ):
        await colourful.wait_until(lambda _: "\x1b[32m" in colourful.received)
        await plain.wait_until(lambda screen: "claims/s" in screen)
        assert "\x1b" not in plain.received


@pytest.mark.real
@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"PYTHONIOENCODING": "latin-1"}])
async def test_demo_on_a_simple_terminal(environment: dict[str, str]) -> None:
    """A terminal without colours, or without our signs, gets letters in lines of 80 at most."""
    async with on_a_terminal("demo.py", "--seconds", "60", **environment) as terminal:
        await terminal.wait_until(lambda screen: screen.count("claims/s") > 3)
        assert terminal.received.isascii()
        assert "\x1b" not in terminal.received
        assert max(map(len, terminal.received.splitlines())) <= 80


@pytest.mark.real
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
async def test_demo_leaves_nothing_behind(how: signal.Signals) -> None:
    """The demo's servers end with it, even if it is killed."""
    async with running("demo.py", "--seconds", "60") as demo:
        servers = []
        for name in ("echo001", "echo002", "echo003"):
            line = await demo.wait_for(name)
            servers.append(int(line.rpartition(" ")[2]))
        await demo.wait_for("claims/s")
        demo.process.send_signal(how)
        assert await demo.wait() == (130 if how == signal.SIGINT else -how)
        with trio.fail_after(PATIENCE):
            while any(is_running(pid) for pid in servers):  # noqa: ASYNC110 - nobody tells
                await trio.sleep(0.01)


def is_running(pid: int) -> bool:
    """Return True if there is a process with this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_cut_by_the_kill_is_only_what_was_in_flight_there() -> None:
    """A claim is excused if it was using the killed server while that was being killed."""
    cut = outcome(DEAD, 2.9, 3.1, HUNG_UP)
    during = outcome(DEAD, 3.01, 3.1, HUNG_UP)
    unharmed = outcome(DEAD, 2.9, 3.0)
    too_late = outcome(DEAD, 3.2, 3.3, HUNG_UP)
    too_early = outcome(DEAD, 2.0, 2.1, HUNG_UP)
    elsewhere = outcome(LIVE, 2.9, 3.1, HUNG_UP)
    account = Account(kill=Kill(DEAD, 3.0, 3.05))
    account.outcomes += [cut, during, unharmed, too_late, too_early, elsewhere]
    assert account.in_flight() == [cut, during, unharmed]
    assert account.cut() == [cut, during]
    assert account.failed() == [too_late, too_early, elsewhere]


def test_without_a_kill_nothing_is_excused() -> None:
    """Before the kill, every error is a failure."""
    account = Account(outcomes=[outcome(DEAD, 2.9, 3.1, HUNG_UP)])
    assert account.cut() == []
    assert account.failed() == account.outcomes


def a_demo() -> Demo:
    """A demo that is over and went well: a claim at each address, the new one included."""
    demo = Demo(10, Printer(plain=True, names=["echo001", "echo002"]))
    demo.account.moved = Move(NEW_ADDRESS, 5.0)
    for backend in (DEAD, LIVE, NEW):
        demo.account.add(outcome(backend, 6, 7))
    return demo


async def test_a_failed_claim_is_a_failed_demo(capsys: pytest.CaptureFixture[str]) -> None:
    """One claim that failed and should not have makes the verdict, and is shown."""
    demo = a_demo()
    assert demo.sum_up(CountingConnector())
    demo.account.add(outcome(LIVE, 8, 9, HUNG_UP))
    assert not demo.sum_up(CountingConnector())
    said = capsys.readouterr().out
    assert "No claim failed." in said
    assert "1 claim failed that should not have." in said
    assert "failed: claimer 1: ConnectionError('the server hung up')" in said


async def test_a_demo_without_the_return_has_failed(capsys: pytest.CaptureFixture[str]) -> None:
    """The demo fails, and says so, if no claim ever used the new address."""
    demo = a_demo()
    demo.account.found = None
    assert not demo.sum_up(CountingConnector())
    assert "No claim ever used echo002 at its new address." in capsys.readouterr().out


async def test_a_connection_left_open_is_a_failed_demo(capsys: pytest.CaptureFixture[str]) -> None:
    """The connections opened and closed are counted, and must be as many."""
    demo = a_demo()
    connector = CountingConnector()
    connector.opened = 1
    assert not demo.sum_up(connector)
    assert "1 opened, 0 closed" in capsys.readouterr().out
