"""A blocking driver in a pool: SQLite, whose queries run in threads.

    python examples/blocking_driver.py

Four tasks share two connections. One of the queries never ends. Its claimant gives it up after
a fifth of a second; the pool interrupts the query, and the connection serves the next claimant.
"""

from __future__ import annotations

import sqlite3
import tempfile
from functools import partial
from pathlib import Path

import trio

import qorb_trio

ENDLESS = "with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n"


class SqliteConnector(qorb_trio.ThreadConnector[sqlite3.Connection]):
    """Connections to one database file, which count themselves."""

    def __init__(self, file: Path) -> None:
        # A connection may be used in threads other than its own, one at a time.
        super().__init__(
            lambda backend: sqlite3.connect(file, check_same_thread=False),
            cancel=sqlite3.Connection.interrupt,
        )
        self.closed = 0

    def close_connection(self, connection: sqlite3.Connection) -> None:
        """Close a connection. In a thread."""
        super().close_connection(connection)
        self.closed += 1


# --- What runs in threads: plain functions, with the driver's connection first. ----------


def create(db: sqlite3.Connection) -> None:
    """Create the table."""
    db.execute("create table visits (name text)")
    db.commit()


def visit(db: sqlite3.Connection, name: str) -> int:
    """Note a visit, and return the number of visits of that name."""
    with db:  # one transaction
        db.execute("insert into visits values (?)", [name])
        return query(db, f"select count(*) from visits where name = '{name}'")


def query(db: sqlite3.Connection, text: str) -> int:
    """Return the one number that a query yields."""
    number: int = db.execute(text).fetchone()[0]
    return number


# --- What runs in Trio. -------------------------------------------------------------------


async def visitor(pool: qorb_trio.Pool[qorb_trio.ThreadConnection[sqlite3.Connection]]) -> None:
    """Visit three times, with a connection for each visit."""
    name = trio.lowlevel.current_task().name
    for _ in range(3):
        async with pool.claim() as conn:
            await conn.run(visit, name)


async def main() -> None:
    """Run the tasks, and tell how it went."""
    with tempfile.TemporaryDirectory() as folder:
        connector = SqliteConnector(Path(folder) / "visits.db")
        resolver = qorb_trio.FixedResolver([("visits.db", 1)])  # there is one place to connect to
        policy = qorb_trio.Policy(spares_wanted=2, max_slots=2)
        async with trio.open_nursery() as nursery:
            open_pool = partial(qorb_trio.open_pool, nursery, resolver, connector)
            async with open_pool(policy=policy) as pool:
                async with pool.claim() as conn:
                    await conn.run(create)
                async with trio.open_nursery() as visitors:
                    for name in ("Ada", "Edsger", "Grace"):
                        visitors.start_soon(visitor, pool, name=name)
                    with trio.move_on_after(0.2) as scope:
                        async with pool.claim() as conn:
                            await conn.run(query, ENDLESS)
                    print("the endless query was given up:", scope.cancelled_caught)
                async with pool.claim() as conn:
                    print("visits:", await conn.run(query, "select count(*) from visits"))
                print("connections closed meanwhile:", connector.closed)
        print("connections closed at the end:", connector.closed)


if __name__ == "__main__":
    trio.run(main)
