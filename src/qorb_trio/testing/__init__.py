"""Aids for testing a service that uses a pool, and what this project's own tests use.

`FakeConnector`, `MemoryConnector` and `ManualResolver` need no network and run under
`trio.testing.MockClock`; `RecordingInstrument` keeps what a pool did; `DnsServer` is a
small DNS server on real sockets.
"""

import typing as _typing

from .._on_demand import on_demand as _names_on_demand
from ._fake_connection import FakeConnection as FakeConnection
from ._fake_connector import (
    FakeConnector as FakeConnector,
    HookedFakeConnector as HookedFakeConnector,
)
from ._manual_resolver import ManualResolver as ManualResolver
from ._memory_connector import MemoryConnector as MemoryConnector, MemoryStream as MemoryStream
from ._recording_instrument import RecordingInstrument as RecordingInstrument

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

if _typing.TYPE_CHECKING:
    from ._dns.server import (
        DnsAction as DnsAction,
        DnsQuery as DnsQuery,
        DnsServer as DnsServer,
        DnsStep as DnsStep,
    )
else:
    # dnspython is imported for those who ask for the server, and not for the fakes.
    __getattr__, __dir__, __all__ = _names_on_demand(
        __name__, {"._dns.server": "DnsAction DnsQuery DnsServer DnsStep"}
    )
