"""`say_why_late`: the reason why a step of a connect takes too long.

The pool knows only that a connect took longer than ``connect_timeout``. The connector knows how
far it got, which often names the mistake, such as a server that expects TLS.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

#: The reason is raised so much before the deadline: as a part of the time that is left, and in
#: seconds. A busy program may see both moments at once, and then the reason would be lost.
PART: Final = 0.02
LEAST: Final = 0.05


@contextmanager
def say_why_late(reason: str) -> Iterator[None]:
    """Raise `TimeoutError` with `reason` shortly before the deadline that is in force.

    Without a deadline, and if the task is cancelled for another reason, nothing happens.
    """
    deadline = trio.current_effective_deadline()
    left = deadline - trio.current_time()
    if not 0 < left < math.inf:
        yield
        return
    margin = max(PART * left, min(LEAST, left / 4))
    with trio.move_on_at(deadline - margin) as scope:
        yield
    if scope.cancelled_caught:
        raise TimeoutError(reason)
