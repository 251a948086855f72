"""A pool whose link to one of its servers is cut: a program for a network of its own.

    unshare --user --map-root-user --net python -m tests.faults.partition

The program starts two servers, each in a network namespace with one cable to it, and cuts
the cable of one of them. It first cuts the server's end: packets then vanish in silence. It
then cuts its own end: the system then knows that there is no route. No packet reaches the
network of the machine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio

from qorb_trio import Backend
from qorb_trio.testing import ManualResolver

from .left import PATIENCE, nothing_left
from .scene import open_scene
from .servers import EchoServer


@attrs.define(eq=False)
class Island:
    """An echo server in a network namespace of its own, and the cable that leads there."""

    number: int
    server: EchoServer

    @property
    def backend(self) -> Backend:
        """Return the backend at the island's address."""
        return Backend((f"10.99.{self.number}.2", self.server.port))

    @property
    def cable(self) -> str:
        """Our end of the cable."""
        return f"here{self.number}"

    async def there(self, *command: str) -> None:
        """Run a command in its namespace."""
        await trio.run_process(["nsenter", "--net", f"--target={self.server.pid}", *command])

    async def our_end(self, state: str) -> None:
        """Put our end ``up`` or ``down``."""
        await ip("link", "set", self.cable, state)

    async def their_end(self, state: str) -> None:
        """Put the server's end ``up`` or ``down``."""
        await self.there("ip", "link", "set", "there", state)

    async def lay(self) -> None:
        """Lay the cable."""
        await ip("link", "add", self.cable, "type", "veth", "peer", "name", "there")
        await ip("link", "set", "there", "netns", str(self.server.pid))
        await ip("addr", "add", f"10.99.{self.number}.1/24", "dev", self.cable)
        await self.there("ip", "addr", "add", f"10.99.{self.number}.2/24", "dev", "there")
        await self.our_end("up")
        await self.their_end("up")


async def ip(*arguments: str) -> None:
    """Run ``ip``."""
    await trio.run_process(["ip", *arguments])


@asynccontextmanager
async def islands(count: int) -> AsyncIterator[list[Island]]:
    """Yield `count` islands, all connected."""
    found = []
    try:
        for number in range(count):
            server = EchoServer("0.0.0.0", command=("unshare", "--net"))
            await server.start()
            found.append(Island(number, server))
            await found[-1].lay()
        yield found
    finally:
        with trio.fail_after(PATIENCE, shield=True):
            for island in found:
                await island.server.kill()


async def story() -> None:
    """Cut the link of one, mend it, and again."""
    async with (
        islands(2) as [far, near],
        open_scene(ManualResolver([far.backend, near.backend])) as scene,
    ):
        await scene.serves(far.backend, near.backend)
        for end in (far.their_end, far.our_end):
            await end("down")
            await scene.until(
                lambda: not scene.pool.stats().backends[far.backend.name].online,
                "the link is known to be cut",
            )
            await scene.serves(near.backend, more=100)
            await end("up")
            await scene.serves(far.backend, near.backend)


async def main() -> None:
    """Run the story, and see that it leaves nothing behind."""
    with trio.fail_after(3 * PATIENCE):
        async with nothing_left():
            await story()


if __name__ == "__main__":
    trio.run(main)
