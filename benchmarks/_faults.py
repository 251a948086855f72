"""The effect of faults on clients: failed requests, and the longest time without an answer."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import TypeAlias, final

import attrs
import trio

#: Sends one request, and raises if it fails.
Request: TypeAlias = Callable[[], Awaitable[object]]
#: Inflicts a fault on the servers.
Fault: TypeAlias = Callable[[], Awaitable[None]]

#: Seconds before the fault begins, and after it has ended.
QUIET = 1.0


@final
@attrs.define
class Account:
    """The requests of one client during one fault."""

    answered: int = 0
    failed: int = 0
    longest_gap: float = 0.0
    errors: Counter[str] = attrs.field(factory=Counter)
    _last: float = attrs.field(factory=perf_counter)

    def note(self, error: BaseException | None) -> None:
        """Note how a request has ended."""
        if error is not None:
            self.failed += 1
            self.errors[type(error).__name__] += 1
            return
        self.answered += 1
        self.look()
        self._last = perf_counter()

    def look(self) -> None:
        """Note how long ago the last answer was."""
        self.longest_gap = max(self.longest_gap, perf_counter() - self._last)

    def cells(self) -> list[str]:
        """Return the account as cells of a table."""
        errors = ", ".join(f"{count} {name}" for name, count in self.errors.most_common(2))
        return [str(self.answered), str(self.failed), f"{self.longest_gap:.2f} s", errors]


async def during(fault: Fault, request: Request, *, workers: int, pause: float) -> Account:
    """Let some workers send requests before, during and after a fault."""
    account = Account()

    async def worker() -> None:
        while True:
            try:
                await request()
            except Exception as exc:  # noqa: BLE001 - whatever a client raises is a failed request
                account.note(exc)
            else:
                account.note(None)
            await trio.sleep(pause)

    async with trio.open_nursery() as nursery:
        for _ in range(workers):
            nursery.start_soon(worker)
        await trio.sleep(QUIET)
        await fault()
        await trio.sleep(QUIET)
        nursery.cancel_scope.cancel()
    account.look()
    return account


HEAD = ["fault", "client", "answered", "failed", "longest gap", "errors"]


@final
class Table:
    """The accounts of all faults, printed as they come."""

    def __init__(self) -> None:
        parser = argparse.ArgumentParser()
        parser.add_argument("fault", nargs="*", help="only faults whose title has such a word")
        self._words: list[str] = parser.parse_args().fault
        print(f"| {' | '.join(HEAD)} |")
        print(f"|{'---|' * len(HEAD)}", flush=True)

    def wants(self, title: str) -> bool:
        """Return true if a fault was asked for."""
        return not self._words or any(word in title for word in self._words)

    def add(self, title: str, client: str, account: Account) -> None:
        """Print one line."""
        print(f"| {' | '.join([title, client, *account.cells()])} |", flush=True)
