"""`AuditInstrument`: a pool's events as audit events, which `bpftrace` can see."""

from __future__ import annotations

import sys
from typing import final

from .event import PoolEvent
from .event_instrument import EventInstrument


@final
class AuditInstrument(EventInstrument):
    """Raises an audit event (`sys.audit`) for each event of the pools that it watches.

    A Python that was configured ``--with-dtrace``, as most Linux distributions do, has a probe
    for audit events, ``python:audit``. With it, tools such as ``bpftrace`` can trace a pool in
    a running program from outside. Audit hooks (`sys.addaudithook`) receive the events too.

    The audit event's name is ``"qorb_trio."`` followed by ``str()`` of the `PoolEvent`:
    ``"qorb_trio.claim_done pool=db claim_id=7 slot_id=3 backend=..."``. Its arguments are the
    duration as a whole number of microseconds (0 if there is none), and the `PoolEvent`.
    """

    def on_event(self, event: PoolEvent) -> None:
        """Raise the audit event."""
        sys.audit(f"qorb_trio.{event}", round((event.duration or 0) * 1e6), event)


AuditInstrument.__module__ = "qorb_trio"  # where users import it from
