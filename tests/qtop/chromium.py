"""A headless Chromium, driven over its DevTools protocol: enough to look at one page."""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import pytest
import trio

from qorb_trio.qtop._client import Target, connect
from qorb_trio.qtop._websocket import WebSocket

PROGRAM = shutil.which("chromium")
#: Maximum seconds that a browser may take for anything, on a busy machine.
PATIENCE = 60.0

needs_chromium = pytest.mark.skipif(
    PROGRAM is None, reason="chromium is not installed; on Debian it is a package of that name"
)


@attrs.define(eq=False)
class Tab:
    """A page that is open in the browser."""

    _socket: WebSocket
    _session: dict[str, str] = attrs.field(factory=dict)
    _numbers: Iterator[int] = attrs.field(factory=lambda: itertools.count(1))
    #: The complaints of the page's scripts.
    complaints: list[str] = attrs.field(factory=list)

    async def do(self, method: str, **parameters: object) -> dict[str, Any]:
        """Have the browser do something; what it answers."""
        number = next(self._numbers)
        command = {"id": number, "method": method, "params": parameters, **self._session}
        await self._socket.send(json.dumps(command))
        while True:
            text = await self._socket.receive()
            assert text is not None, "the browser has hung up"
            message = json.loads(text)
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            if message.get("method") in {"Runtime.exceptionThrown", "Log.entryAdded"}:
                self.complaints.append(json.dumps(message["params"]))

    async def open(self, url: str) -> None:
        """Show a page, in a tab of its own."""
        target = await self.do("Target.createTarget", url="about:blank")
        attached = await self.do("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session["sessionId"] = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self.do(f"{domain}.enable")
        await self.do("Page.navigate", url=url)
        await self.wait_until("location.host && document.readyState === 'complete'")

    async def ask(self, expression: str) -> Any:
        """Return the value of an expression; wait for it if it is a promise."""
        result = await self.do(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def wait_until(self, expression: str) -> None:
        """Wait until an expression is true."""
        with trio.move_on_after(PATIENCE):
            while not await self.ask(expression):  # noqa: ASYNC110 - in another program
                await trio.sleep(0.05)
            return
        text = await self.ask("document.body.innerText")
        raise AssertionError(f"never true: {expression}; {self.complaints}; the page says\n{text}")

    async def resize(self, width: int, height: int, *, scheme: str) -> None:
        """Give the page this size, and the user a liking for "light" or "dark"."""
        await self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        feature = {"name": "prefers-color-scheme", "value": scheme}
        await self.do("Emulation.setEmulatedMedia", features=[feature])

    async def screenshot(self, file: Path | None = None) -> bytes:
        """Return a picture of the page, a PNG."""
        shot = await self.do("Page.captureScreenshot", captureBeyondViewport=True)
        png = base64.b64decode(shot["data"])
        if file is not None:
            await trio.Path(file).write_bytes(png)
        return png


@asynccontextmanager
async def a_browser() -> AsyncIterator[Tab]:
    """A browser with an empty profile, for the length of the block."""
    assert PROGRAM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            *(PROGRAM, "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}"),
            *("--no-first-run", "--disable-gpu", "--disable-dev-shm-usage", "--mute-audio"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            "--disable-extensions",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
        ]
        async with trio.open_nursery() as nursery:
            process = await nursery.start(
                partial(
                    trio.run_process,
                    [*command, "about:blank"],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    check=False,
                    env=os.environ | {"HOME": profile, "XDG_CONFIG_HOME": profile},
                )
            )
            with trio.fail_after(PATIENCE):
                url = await _address(process.stderr)
            nursery.start_soon(_drain, process.stderr)
            target = attrs.evolve(Target.parse(url, 1), path=urlsplit(url).path)
            async with connect(target, longest=100_000_000) as socket:
                yield Tab(socket)
            nursery.cancel_scope.cancel()


async def _address(stderr: trio.abc.ReceiveStream) -> str:
    """Return the address at which the browser says that it listens."""
    said = b""
    async for chunk in stderr:
        said += chunk
        if match := re.search(rb"DevTools listening on (ws://\S+)\s", said):
            return match[1].decode()
    raise AssertionError(f"the browser has ended: {said.decode()}")


async def _drain(stderr: trio.abc.ReceiveStream) -> None:
    async for _ in stderr:
        pass
