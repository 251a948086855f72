"""Exception groups: what the pool's own nurseries add is nobody else's business."""

from __future__ import annotations


def sole_exception(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What is in a group of one, and else the group: one nursery's layer, no more.

    A group that the user's code has raised keeps its own layers, message and notes.
    """
    return group.exceptions[0] if len(group.exceptions) == 1 else group
