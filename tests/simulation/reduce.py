"""Delta debugging: the fewest actions that still fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def reduce(
    items: Sequence[int], fails: Callable[[Sequence[int]], bool], *, tries: int = 300
) -> list[int]:
    """Leave out as many of `items` as possible while `fails` says that it still does.

    After Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input" (2002):
    first large pieces are left out, then ever smaller ones. `tries` bounds the calls.
    """
    left, size = list(items), max(1, len(items) // 2)
    while tries > 0 and left:
        shorter = False
        start = 0
        while start < len(left) and tries > 0:
            candidate = left[:start] + left[start + size :]
            tries -= 1
            if fails(candidate):
                left, shorter = candidate, True
            else:
                start += size
        if size > 1:
            size = (size + 1) // 2
        elif not shorter:
            break
    return left
