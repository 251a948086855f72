"""A pool on echo servers that are processes: killed, stopped, moved."""

from __future__ import annotations

import attrs
import pytest
import trio

import qorb_trio
from qorb_trio import Backend, DnsResolver, DnsResolverConfig, NoBackendsOnlineError
from qorb_trio.testing import DnsServer, ManualResolver

from .left import PATIENCE
from .scene import POLICY, Scene, open_scene
from .servers import open_servers

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("leaves_nothing")]


async def test_killed_and_started_again() -> None:
    """A server is killed in the midst of exchanges: the other serves, and later both do."""
    async with open_servers(2) as [victim, other]:
        async with open_scene(ManualResolver([victim.backend, other.backend])) as scene:
            for _ in range(2):
                await scene.serves(victim.backend, other.backend)
                await victim.kill()
                await scene.until(
                    lambda: not scene.pool.stats().backends[victim.backend.name].online,
                    "the pool knows that it is dead",
                )
                await scene.serves(other.backend, more=100)
                await victim.start()
            await scene.serves(victim.backend, other.backend)
            assert not scene.refused


async def test_stopped_and_resumed() -> None:
    """A server is silent and its connections stay: the other serves, and later both do again."""
    async with open_servers(2) as [victim, other]:
        async with open_scene(ManualResolver([victim.backend, other.backend])) as scene:
            await scene.serves(victim.backend, other.backend)
            victim.stop()
            await scene.until(
                lambda: not scene.pool.stats().backends[victim.backend.name].online,
                "its connections are found to be silent",
            )
            await scene.serves(other.backend, more=100)
            victim.resume()
            await scene.serves(victim.backend, other.backend)


async def test_all_killed() -> None:
    """All servers are dead: the error says so, with the reason; then they serve again."""
    async with open_servers(2) as servers:
        policy = attrs.evolve(POLICY, claim_timeout=0.2)
        resolver = ManualResolver([server.backend for server in servers])
        async with open_scene(resolver, policy=policy) as scene:
            await scene.serves(*(server.backend for server in servers))
            for server in servers:
                await server.kill()
            await scene.until(lambda: scene.refused[NoBackendsOnlineError] >= 5, "it is noticed")
            with trio.fail_after(PATIENCE):
                while not isinstance(await why_refused(scene), ConnectionRefusedError):
                    pass  # on a slow machine a dial may also run into its timeout
            for server in servers:
                await server.start()
            await scene.serves(*(server.backend for server in servers))


async def why_refused(scene: Scene) -> BaseException | None:
    """The reason of the error that a claim gets while all servers are dead."""
    with pytest.raises(NoBackendsOnlineError) as caught:
        await scene.pool.acquire()
    return caught.value.__cause__


async def test_moved() -> None:
    """A server moves to another port, and the resolver says so: it is used there."""
    async with open_servers(2) as [mover, other]:
        resolver = ManualResolver([mover.backend, other.backend])
        async with open_scene(resolver) as scene:
            for _ in range(3):
                await scene.serves(mover.backend, other.backend)
                await mover.move()
                resolver.set([mover.backend, other.backend])
            await scene.serves(mover.backend, other.backend)
            assert set(scene.pool.stats().backends) == {mover.backend.name, other.backend.name}


async def test_ff30_moved_under_the_same_name() -> None:
    """A known name at another address is another backend, and is used there."""
    async with open_servers(1) as [mover]:
        at_first = Backend(mover.address, name="one")
        resolver = ManualResolver([at_first])
        async with open_scene(resolver) as scene:
            await scene.serves(at_first)
            await mover.move()
            now = Backend(mover.address, name="one")
            resolver.set([now])
            await scene.serves(now)


async def test_ff14_moved_while_held() -> None:
    """A claim that is held as its server leaves DNS goes on to its end, and is then closed."""
    async with open_servers(2) as [old, new]:
        resolver = ManualResolver([old.backend])
        async with open_scene(resolver, clients=2) as scene:
            await scene.serves(old.backend)
            async with scene.pool.claim() as conn:
                resolver.set([new.backend])
                await scene.serves(new.backend)
                await conn.ask()
                await scene.until(lambda: scene.pool.stats().departed == 1, "the others are gone")
            await scene.until(lambda: not scene.pool.stats().departed, "it is closed")
            assert conn not in scene.connector.account.live


async def test_moved_in_the_dns() -> None:
    """A server is killed and started at another port, which only DNS tells."""
    async with open_servers(2) as [mover, other], DnsServer(origin="test.", default_ttl=0) as dns:
        dns.set("host", "A", "127.0.0.1")

        def publish() -> None:
            records = [f"0 1 {server.port} host" for server in (mover, other)]
            dns.set("_echo._tcp", "SRV", records)

        def backends() -> list[Backend]:
            return [
                Backend(server.address, name=f"host.test:{server.port}@127.0.0.1")
                for server in (mover, other)
            ]

        publish()
        config = DnsResolverConfig(families=("A",), min_refresh=0.05)
        resolver = DnsResolver("_echo._tcp.test.", nameservers=[dns.address], config=config)
        async with open_scene(resolver) as scene:
            await scene.serves(*backends())
            await mover.move()
            publish()
            await scene.serves(*backends())
            dns.fault = lambda query: "SERVFAIL"
            await scene.serves(*backends())  # what is known is kept


async def test_the_program_ends_as_its_servers_die() -> None:
    """The pool is cancelled together with its clients, while a server is dead and one hangs."""
    async with open_servers(3) as [dead, hung, well]:
        resolver = ManualResolver([server.backend for server in (dead, hung, well)])
        async with open_scene(resolver) as scene:
            await scene.serves(well.backend)
            await dead.kill()
            hung.stop()
            await trio.sleep(0.05)
            await scene.pool.terminate()
            await scene.until(lambda: scene.refused[qorb_trio.PoolTerminatedError], "all know")
