"""Candidates that a test writes down."""

from __future__ import annotations

from typing import Any, final

import attrs

from qorb_trio import Backend


@final
@attrs.define(eq=False)
class Fake:
    """A `Candidate` with given numbers."""

    name: str
    load: int = 0
    weight: float = 1.0
    spares: int = 1
    memo: Any = None

    @property
    def backend(self) -> Backend:
        """A backend of this name."""
        return Backend((self.name, 1), name=self.name)


def fakes(count: int, **fields: Any) -> list[Fake]:
    """Candidates with the same fields."""
    return [Fake(f"f{number}", **fields) for number in range(count)]
