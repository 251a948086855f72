"""Other pools, one file each, behind the same interface as this project's own.

A file for asyncio has `VERSION` and ``full_pool(slots)``, an async context manager that
yields a `Lend` of a pool with `slots` simulated connections. It runs in a process of its own
(`_contestant.py`), because two event loops cannot share a thread. So does cueball, under
Node. Pools that are not installed are left out.
"""
