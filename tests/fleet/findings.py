"""`Findings`: the figures of one scenario, with their targets, and its chart."""

from __future__ import annotations

from typing import Literal, final

import attrs

Points = list[tuple[float, float]]


@final
@attrs.frozen
class Figure:
    """One figure, and its target if it has one."""

    name: str
    value: float
    target: float | None = None
    sense: Literal["at most", "at least"] = "at most"
    unit: str = ""
    #: Why the target differs from the one that was set, if it does.
    note: str = ""

    @property
    def is_reached(self) -> bool:
        """True if the figure is as good as its target, or has none."""
        if self.target is None:
            return True
        return self.value <= self.target if self.sense == "at most" else self.value >= self.target


@final
@attrs.frozen
class Chart:
    """One chart: some lines over a common axis."""

    title: str
    x: str
    y: str
    lines: dict[str, Points]


@final
@attrs.frozen
class Findings:
    """The result of one scenario."""

    figures: list[Figure]
    chart: Chart
    #: The figures that the models of other pools have in this scenario.
    comparable: dict[str, float] = attrs.field(factory=dict)

    def value(self, name: str) -> float:
        """Return the figure of that name."""
        return next(figure.value for figure in self.figures if figure.name == name)

    @property
    def missed(self) -> list[Figure]:
        """The figures that miss their targets."""
        return [figure for figure in self.figures if not figure.is_reached]
