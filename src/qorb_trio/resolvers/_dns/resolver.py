"""`DnsResolver`: tracks the backends of a service in DNS."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, final

import trio

from ... import _validation as _check
from ..._model.backend import Backend
from ...abc import Resolver
from .config import DnsResolverConfig
from .servers import NameserverLike, checked_nameservers
from .snapshot import DnsSnapshot, NameserverSnapshot

if TYPE_CHECKING:
    from .engine import Engine
    from .transport import Transport

_DEFAULT_CONFIG = DnsResolverConfig()


@final
class DnsResolver(Resolver):
    """Tracks the backends of a service in DNS, for as long as the pool lives.

    It looks up the SRV records of the service (RFC 2782) and the addresses of their
    targets, and asks again as their TTLs run out. A TTL never removes a backend, and
    neither does a nameserver that fails. Only an answer does, and it has to be confirmed.
    ``docs/dns.md`` has the rules.

    Backends are named ``target:port@address``. They have the target, its priority and its
    weight.

    Args:
      service: the name, such as ``"_echo._tcp.test.com"``. Always absolute, unless
        ``config.search`` is set. International names are encoded by IDNA 2008.
      nameservers: ``(host, port)`` pairs, ``"host:port"``, ``"[v6]:port"``, or a host, for
        port 53. `None`, the default, stands for those of the system.
      config: the intervals and limits.
      rng: the source of jitter; by default a new one.
      transport: asks one nameserver; by default over UDP and TCP. For tests that run in
        virtual time.

    Raises:
      TypeError, ValueError: naming the argument that is wrong; also for a name that
        cannot exist in DNS.
    """

    def __init__(
        self,
        service: str,
        *,
        nameservers: Iterable[NameserverLike] | None = None,
        config: DnsResolverConfig = _DEFAULT_CONFIG,
        rng: random.Random | None = None,
        transport: Transport | None = None,
    ) -> None:
        # dnspython takes 0.1 s to import, which only its users should pay.
        from .names import checked_name  # noqa: PLC0415

        _check.instance("config", config, DnsResolverConfig)
        self._config = config
        self._name = checked_name("service", service)
        finder = self._config.resolver_service
        self._finder = None if finder is None else checked_name("resolver_service", finder)
        self._nameservers = None if nameservers is None else checked_nameservers(nameservers)
        # A name without a dot is nowhere but in the domains of the system's search list.
        searches = self._config.search or ("." not in self._name and nameservers is None)
        self._absolute = service.endswith(".") or not searches
        self._rng = random.Random() if rng is None else rng
        _check.instance("rng", self._rng, random.Random)
        self._transport = transport
        self._engine: Engine | None = None

    @property
    def service(self) -> str:
        """The name that is resolved: lower case, A-labels, no final dot."""
        return self._name

    @property
    def config(self) -> DnsResolverConfig:
        """The configuration, as given."""
        return self._config

    async def run(self, updates: trio.MemorySendChannel[Collection[Backend]]) -> None:
        """Send the set of backends each time that it changes.

        Returns only when the receiver has gone, and never raises because of DNS or the
        network: it goes on trying. While DNS has only failed so far, nothing is sent. Sets
        are sent at most four times a second. Cancelled, it closes its sockets at once. May be
        run again, and by several pools at a time; each run begins anew.
        """
        from .engine import Engine  # noqa: PLC0415
        from .system_files import SystemNames  # noqa: PLC0415
        from .transport import NetworkTransport  # noqa: PLC0415

        engine = Engine.make(
            self._name,
            self._finder,
            system=SystemNames(self._name, absolute=self._absolute, given=self._nameservers),
            config=self._config,
            transport=self._transport or NetworkTransport(edns_payload=self._config.edns_payload),
            rng=self._rng,
        )
        self._engine = engine
        await engine.run(updates)

    def snapshot(self) -> DnsSnapshot:
        """Return everything that is known now, by the run that was started last.

        Synchronous; to be called where Trio runs. Before the first run it is empty.
        """
        if self._engine is not None:
            return self._engine.snapshot()
        return DnsSnapshot(
            service=self._name,
            time=trio.current_time(),
            backends=None,
            names=(),
            nameservers=tuple(
                NameserverSnapshot(str(server), dynamic=False, demoted_until=None, last_error=None)
                for server in self._nameservers or ()
            ),
        )

    def __repr__(self) -> str:
        return f"DnsResolver({self._name!r})"


DnsResolver.__module__ = "qorb_trio"  # where users import it from
