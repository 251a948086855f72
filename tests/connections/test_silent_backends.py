"""Backends that look alive: field-faults, part B."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys

import attrs
import pytest
import trio
from trio.testing import MockClock

from qorb_trio import FixedResolver, Policy, SetConfig, TcpConnector, open_pool
from qorb_trio.testing import HookedFakeConnector

from .ejecting import Scene, a_scene, lines

SERVER = """
import trio
async def serve(stream):
    async for data in stream:
        await stream.send_all(data)
async def main():
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(listeners[0].socket.getsockname()[1], flush=True)
    await trio.serve_listeners(serve, listeners)
trio.run(main)
"""


async def ask(scene: Scene, silent: set[str]) -> bool:
    """Make a claim with a limit in its body; return True if it was served."""
    try:
        async with scene.pool.claim() as connection:
            with trio.fail_after(0.2):
                await trio.sleep(9 if connection.backend.name in silent else 0.001)
    except trio.TooSlowError:
        return False
    return True


async def test_ff_b1_a_silent_backend_is_ejected_after_five(autojump_clock: MockClock) -> None:
    """One of three falls silent: five claims of 60 time out, and the statistics show it."""
    async with a_scene(3, spares=9) as scene:
        served = [await ask(scene, {"a"}) for _ in range(60)]
        assert served.count(False) == 5
        assert scene.ejected == ["a"]
        assert scene.stats(scene.backends[0]).failed_claims == 5


def detected(scene: Scene) -> bool:
    """Return True if the pool knows that the first backend does not work."""
    stats = scene.stats(scene.backends[0])
    return not stats.online or stats.ejected_until is not None


@pytest.mark.parametrize("health_interval", [1.0, 30.0])
async def test_ff_b2_after_its_detection_nothing_more_is_lost(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, health_interval: float
) -> None:
    """A silent backend is detected by `is_valid` or five lost claims; then none is lost."""
    connector = HookedFakeConnector()
    async with a_scene(
        2,
        spares=4,
        connector=connector,
        policy=lambda policy: attrs.evolve(
            policy, set_config=SetConfig(health_interval=health_interval)
        ),
    ) as scene:
        caplog.set_level(logging.INFO)
        caplog.clear()
        connector.stall("a", on="is_valid")
        before = after = 0
        for _ in range(240):
            is_known = detected(scene)
            is_lost = not await ask(scene, {"a"})
            before += is_lost and not is_known
            after += is_lost and is_known
            await trio.sleep(0.5)
        assert before <= 5
        assert after == 0
        connector.heal("a", on="is_valid")
        for _ in range(60):
            assert await ask(scene, set())
            await trio.sleep(0.5)
        assert scene.stats(scene.backends[0]).online
        assert scene.ejected == []
        # The log has one line at the start, one every 30 s, and one at the end.
        about_a = [text for _, text in lines(caplog, "backend a")]
        checks = [text for text in about_a if "health check failed" in text]
        assert 2 <= len(checks) <= 1 + 120 / 30
        ejections = [text for text in about_a if "eject" in text]
        assert len(ejections) <= 2, "one ejection, and its end"
        (recovery,) = set(about_a) - set(checks) - set(ejections)
        assert "works again after" in recovery


@pytest.mark.real
async def test_ff_b1_with_processes_that_are_stopped() -> None:
    """SIGSTOP one of three echo servers: at most six of 60 claims time out."""
    servers = [start_server() for _ in range(3)]
    late = 0
    try:
        ports = [await trio.to_thread.run_sync(read_port, server) for server in servers]
        resolver = FixedResolver([("127.0.0.1", port) for port in ports])
        policy = Policy(spares_wanted=9, max_slots=9)
        async with (
            trio.open_nursery() as nursery,
            open_pool(nursery, resolver, TcpConnector(), policy=policy) as pool,
        ):
            with trio.fail_after(20):
                await pool.wait_ready(9)
            os.kill(servers[0].pid, signal.SIGSTOP)
            for _ in range(60):
                try:
                    async with pool.claim(timeout=10) as stream:
                        with trio.fail_after(0.2):
                            await stream.send_all(b"x")
                            await stream.receive_some(1)
                except trio.TooSlowError:
                    late += 1
            stopped = pool.stats().backends[f"127.0.0.1:{ports[0]}"]
            assert stopped.failed_claims >= 5
            assert stopped.ejected_until is not None
    finally:
        for server in servers:
            server.kill()
            server.communicate()
    assert 5 <= late <= 6


def start_server() -> subprocess.Popen[str]:
    """Start an echo server in a process of its own."""
    return subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)


def read_port(server: subprocess.Popen[str]) -> int:
    """Return the port that a server has told."""
    assert server.stdout is not None
    return int(server.stdout.readline())
