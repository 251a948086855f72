"""The examples of docs/testing.md work as they stand there."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"


def examples() -> dict[str, Any]:
    """Everything that the page's examples define, by name."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    namespace: dict[str, Any] = {}
    exec(compile("\n".join(blocks), str(PAGE), "exec"), namespace)
    return namespace


NAMESPACE = examples()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if "autojump_clock" in parameters else pytest.mark.real)
        for name, thing in NAMESPACE.items()
        if name.startswith("test_")
        for parameters in [inspect.signature(thing).parameters]
    ],
)
def test_example(name: str) -> None:
    """Each test on the page passes, with the fixtures that it asks for."""
    test = NAMESPACE[name]
    mocked = "autojump_clock" in inspect.signature(test).parameters
    clock = MockClock(autojump_threshold=0) if mocked else None

    async def main() -> None:
        with trio.fail_after(300 if mocked else 10):
            async with trio.open_nursery() as nursery:
                await test(*([clock] if mocked else []), nursery)
                nursery.cancel_scope.cancel()

    trio.run(main, clock=clock)
