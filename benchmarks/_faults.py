"""The effect of faults on clients: failed requests, and the longest time without an answer."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias, final

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

    def row(self, fault: str, client: str) -> dict[str, Any]:
        """Return the account as it is written to a file."""
        return {
            "fault": fault,
            "client": client,
            "answered": self.answered,
            "failed": self.failed,
            "longest_gap": round(self.longest_gap, 2),
            "errors": ", ".join(f"{count} {name}" for name, count in self.errors.most_common(2)),
        }


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


def middle(accounts: list[Account]) -> Account:
    """The account with the median of the failed requests; of several, that of the gap."""
    return sorted(accounts, key=lambda it: (it.failed, it.longest_gap))[len(accounts) // 2]


HEAD = ["fault", "client", "answered", "failed", "longest gap", "errors"]


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """The lines of a table of accounts, as they are written to a file."""
    lines = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    for row in rows:
        cells = [row["fault"], row["client"], str(row["answered"]), str(row["failed"])]
        cells += [f"{row['longest_gap']:.2f} s", row["errors"]]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


@final
class Table:
    """The accounts of all faults, printed as they come, and written to a file if one is given.

    Of each fault and client it has the round in the middle.
    """

    def __init__(self) -> None:
        parser = argparse.ArgumentParser()
        parser.add_argument("fault", nargs="*", help="only faults whose title has such a word")
        parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there too")
        parser.add_argument("--rounds", type=int, default=3, help="how often to do each (3)")
        arguments = parser.parse_args()
        #: Number of times that each fault is inflicted on each client.
        self.rounds: int = arguments.rounds
        self._words: list[str] = arguments.fault
        self._file: Path | None = arguments.json
        self._rows: list[dict[str, Any]] = []
        print("\n".join(markdown([])), flush=True)

    def wants(self, title: str) -> bool:
        """Return true if a fault was asked for."""
        return not self._words or any(word in title for word in self._words)

    async def add(self, title: str, client: str, once: Callable[[], Awaitable[Account]]) -> None:
        """Do something in rounds, and print the line of the round in the middle."""
        accounts = [await once() for _ in range(self.rounds)]
        self._rows.append(middle(accounts).row(title, client))
        print(markdown(self._rows)[-1], flush=True)
        if self._file is not None:
            document = {"rounds": self.rounds, "rows": self._rows}
            self._file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
