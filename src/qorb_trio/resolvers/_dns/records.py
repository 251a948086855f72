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
    """What one query asks for: a name and a record type ("SRV", "A" or "AAAA")."""

    name: str
    rdtype: str

    def __str__(self) -> str:
        return f"{self.name} {self.rdtype}"


@final
class Srv(NamedTuple):
    """One SRV record (RFC 2782). A tuple, because thousands of them are sorted."""

    priority: int
    weight: int
    port: int
    target: str

    def __str__(self) -> str:
        return f"{self.priority} {self.weight} {self.port} {self.target}"


#: The records of one answer, sorted, without duplicates: of SRV, or addresses as text.
Records: TypeAlias = "tuple[Srv, ...] | tuple[str, ...]"


class Kind(enum.Enum):
    """What a server said. That it failed is not among them: that is a `QueryError`."""

    RECORDS = "records"
    NXDOMAIN = "no such name"
    NODATA = "no such records"
    NOT_OFFERED = "not offered here"  # SRV records, but none that can be connected to


@final
@attrs.frozen
class Hint:
    """Addresses of an SRV target that came along in the additional section."""

    addresses: tuple[str, ...]
    ttl: int


@final
@attrs.frozen
class Answer:
    """What one server answers to one question."""

    question: Question
    kind: Kind
    records: Records = ()
    ttl: int | None = None
    """In seconds; `None` where a negative answer came without an SOA record."""

    follow: str | None = None
    """The name that the answer's chain of CNAMEs ends at without saying what is there:
    the question has to be asked for that name."""

    hints: Mapping[Question, Hint] = attrs.field(factory=dict)

    @property
    def negative(self) -> bool:
        """Whether the server says that there are no such records."""
        return self.kind is not Kind.RECORDS


class QueryError(ResolveError):
    """One server did not give an answer, or no server did."""
