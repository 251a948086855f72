"""The plain values that the parts of the DNS resolver exchange. No I/O, no dnspython.

Names are text: lower case, A-labels, no final dot ("." is the root).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias, final

import attrs

from ..._model.errors import ResolveError

ROOT = "."


@final
class Question(NamedTuple):
    """The question of one query: a name and a record type ("SRV", "A" or "AAAA")."""

    name: str
    rdtype: str

    def __str__(self) -> str:
        return f"{self.name} {self.rdtype}"


@final
class Srv(NamedTuple):
    """One SRV record (RFC 2782). A tuple, because thousands of them are sorted at once."""

    priority: int
    weight: int
    port: int
    target: str

    def __str__(self) -> str:
        return f"{self.priority} {self.weight} {self.port} {self.target}"


#: The records of one answer, sorted, without duplicates: of SRV, or addresses as text.
Records: TypeAlias = "tuple[Srv, ...] | tuple[str, ...]"


class Kind(enum.Enum):
    """The kinds of answers. A failure is not an answer but a `QueryError`."""

    RECORDS = "records"
    NXDOMAIN = "no such name"
    NODATA = "no such records"
    NOT_OFFERED = "not offered here"  # records, but none that can be connected to


@final
@attrs.frozen
class Hint:
    """Addresses of an SRV target, from the additional section of the SRV answer."""

    addresses: tuple[str, ...]
    ttl: int


@final
@attrs.frozen
class Answer:
    """The answer of one server to one question."""

    question: Question
    kind: Kind
    records: Records = ()
    ttl: int | None = None
    """In seconds; `None` where a negative answer came without an SOA record."""

    has_soa: bool = False
    """True if a negative answer came with the SOA record of its zone (RFC 2308)."""

    authoritative: bool = False
    """True if the server has the zone itself (AA). The answer of a cache may be a copy."""

    follow: str | None = None
    """The name at the end of the answer's chain of CNAMEs, if the answer has no records of
    that name. The question has to be asked for that name."""

    hints: Mapping[Question, Hint] = attrs.field(factory=dict)
    ignored: tuple[str, ...] = ()
    """Addresses that nobody can connect to, such as 0.0.0.0. They are not in `records`."""

    @property
    def negative(self) -> bool:
        """True if the server says that there are no such records."""
        return self.kind is not Kind.RECORDS

    @property
    def is_final(self) -> bool:
        """True if the server says with authority that there are no such records.

        Only such an answer names its zone, or is a record that says "not offered here".
        """
        return self.kind is Kind.NOT_OFFERED or (self.negative and self.has_soa)


class QueryError(ResolveError):
    """One server did not give an answer, or no server did."""
