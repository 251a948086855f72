"""Aids for testing a service that uses a pool, and what this project's own tests use.

`FakeConnector` and `ManualResolver` need no network and run under
`trio.testing.MockClock`.
"""

from __future__ import annotations

from ._fake_connector import FakeConnection, FakeConnector, HookedFakeConnector
from ._manual_resolver import ManualResolver

__all__ = [
    "FakeConnection",
    "FakeConnector",
    "HookedFakeConnector",
    "ManualResolver",
]

for _public in (FakeConnection, FakeConnector, HookedFakeConnector, ManualResolver):
    _public.__module__ = __name__
