"""The faults of the test DNS server, and the messages that they become. No I/O."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Final, Literal, TypeAlias

import attrs
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode

#: One thing to do for a query; see `DnsServer`.
DnsStep: TypeAlias = str | float | bytes | dns.message.Message
#: The result of a fault hook: the right answer (`None`), one step, or several in order.
DnsAction: TypeAlias = DnsStep | Sequence[DnsStep] | None

#: No client takes this for an answer: it is shorter than a header.
_GARBAGE: Final = b"\xde\xad\xbe\xef"


@attrs.frozen(eq=False)
class DnsQuery:
    """One question that a `DnsServer` was asked.

    A name is compared with ``==`` as it was sent: case counts here.
    """

    #: The time of arrival, by `trio.current_time`.
    time: float
    #: The name, absolute, with its final dot: ``"_echo._tcp.test."``.
    name: str
    #: The type of record: ``"SRV"``.
    type: str
    #: The protocol over which it came.
    transport: Literal["udp", "tcp"]
    #: The address it came from.
    client: tuple[str, int]
    #: The whole message; ``message.edns`` is below 0 if the client did not use EDNS.
    message: dns.message.Message = attrs.field(repr=False)


#: Decides what to do for a query. `None` is the right answer.
FaultHook: TypeAlias = Callable[[DnsQuery], DnsAction]


class Via(Enum):
    """A way to send a message."""

    REPLY = "as an answer is sent"
    STRANGER = "from a socket that was not asked"
    CLOSE = "not at all: the connection is closed"


#: What the server carries out: seconds to wait, or bytes (`None`: the right answer's) to send.
Deed: TypeAlias = "float | tuple[bytes | None, Via]"

_ANSWER: Final = (None, Via.REPLY)


def deeds(action: DnsAction, query: dns.message.Message) -> Iterator[Deed]:
    """Translate the result of a hook; raise `TypeError` or `ValueError` if it is invalid."""
    if action is None:
        yield _ANSWER
    elif isinstance(action, int | float) and not isinstance(action, bool):
        yield from _deeds_of(action, query)
        yield _ANSWER
    elif isinstance(action, Sequence) and not isinstance(action, str | bytes):
        for step in action:
            yield from _deeds_of(step, query)
    else:
        yield from _deeds_of(action, query)


def _deeds_of(step: object, query: dns.message.Message) -> Iterator[Deed]:
    if isinstance(step, bytes):
        yield step, Via.REPLY
    elif isinstance(step, dns.message.Message):
        yield step.to_wire(), Via.REPLY
    elif isinstance(step, str):
        yield from _named(step, query)
    elif isinstance(step, int | float) and not isinstance(step, bool):
        if math.isnan(step) or step < 0:
            raise ValueError(f"a fault hook cannot wait {step!r} seconds")
        yield float(step)
    else:
        raise TypeError(f"a fault hook returned {step!r}")


def _named(step: str, query: dns.message.Message) -> Iterator[Deed]:
    match step:
        case "answer":
            yield _ANSWER
        case "drop":
            pass
        case "garbage":
            yield _GARBAGE, Via.REPLY
        case "wrong_source":
            yield None, Via.STRANGER
        case "close":
            yield b"", Via.CLOSE
        case _:
            yield _empty_response(step, query).to_wire(), Via.REPLY


def _empty_response(step: str, query: dns.message.Message) -> dns.message.Message:
    response = dns.message.make_response(query)
    match step:
        case "truncate":
            response.flags |= dns.flags.AA | dns.flags.TC
        case "wrong_id":
            response.id ^= 0x5555
        case "wrong_question":
            [question] = query.question
            other = dns.name.from_text("wrong.question.invalid.")
            response.question = dns.message.make_query(other, question.rdtype).question
        case _:
            response.set_rcode(_rcode(step))
    return response


def _rcode(text: str) -> dns.rcode.Rcode:
    try:
        return dns.rcode.from_text(text)
    except dns.exception.DNSException:
        raise ValueError(
            f"a fault hook returned {text!r}, which is no action and no rcode"
        ) from None
