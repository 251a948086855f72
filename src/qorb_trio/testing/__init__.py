"""Aids for testing a service that uses a pool, and what this project's own tests use.

`FakeConnector`, `MemoryConnector` and `ManualResolver` need no network and run under
`trio.testing.MockClock`; `RecordingInstrument` keeps what a pool did; `DnsServer` is a
small DNS server on real sockets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ._fake_connection import FakeConnection
from ._fake_connector import FakeConnector, HookedFakeConnector
from ._manual_resolver import ManualResolver
from ._memory_connector import MemoryConnector, MemoryStream
from ._recording_instrument import RecordingInstrument

if TYPE_CHECKING:
    from ._dns.server import DnsAction, DnsQuery, DnsServer, DnsStep

__all__ = [
    "DnsAction",
    "DnsQuery",
    "DnsServer",
    "DnsStep",
    "FakeConnection",
    "FakeConnector",
    "HookedFakeConnector",
    "ManualResolver",
    "MemoryConnector",
    "MemoryStream",
    "RecordingInstrument",
]

_OF_THE_SERVER: Final = ("DnsAction", "DnsQuery", "DnsServer", "DnsStep")

for _public in (
    FakeConnection,
    FakeConnector,
    HookedFakeConnector,
    ManualResolver,
    MemoryConnector,
    MemoryStream,
    RecordingInstrument,
):
    _public.__module__ = __name__


def __getattr__(name: str) -> object:
    # dnspython is imported for those who ask for the server, and not for the fakes.
    if name in _OF_THE_SERVER:
        from ._dns import server  # noqa: PLC0415 - see above

        return getattr(server, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
