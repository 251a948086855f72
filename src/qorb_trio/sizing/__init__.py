"""The numbers of a `Policy` for many clients, and what to expect of them.

`suggest` derives them from the number of clients and backends, the rate of claims and the
time for which each is held. ``python -m qorb_trio.sizing`` prints them. The formulas are those
of a queue with several servers (Erlang 1917) and of connections that are placed at random.
"""

from __future__ import annotations

from ._erlang import Queue, slots_for
from ._suggest import Sizing, suggest

__all__ = ["Queue", "Sizing", "slots_for", "suggest"]

for _public in (Queue, Sizing, slots_for, suggest):
    _public.__module__ = __name__  # where users import them from
