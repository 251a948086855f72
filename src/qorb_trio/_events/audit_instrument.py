"""`AuditInstrument`: a pool's events as audit events, which `bpftrace` can see."""

from __future__ import annotations

import sys
from typing import final

from .event import PoolEvent
from .event_instrument import EventInstrument


@final
class AuditInstrument(EventInstrument):
    """Raises an audit event (`sys.audit`) for each event of the pools that it watches.

    A Python built ``--with-dtrace``, as those of most Linux distributions are, has a probe
    where it audits, ``python:audit``. So what a pool does can be traced from outside of a
    running program with tools like ``bpftrace``, without anything else in the program. An
    audit hook (`sys.addaudithook`) gets the events too.

    The audit event's name is ``"qorb_trio."`` and what ``str()`` makes of the `PoolEvent`:
    ``"qorb_trio.claim_done pool=db claim_id=7 slot_id=3 backend=..."``. Its arguments are the
    duration in microseconds, a whole number (0 if there is none), and the `PoolEvent`.
    """

    def on_event(self, event: PoolEvent) -> None:
        """Raise the audit event."""
        sys.audit(f"qorb_trio.{event}", round((event.duration or 0) * 1e6), event)
