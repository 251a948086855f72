"""Other pools, one file each, behind the face that this project's own has here.

A file for asyncio has `VERSION` and ``full_pool(slots)``, an async context manager that
yields a `Lend` of a pool with so many connections, none of which is real. It runs in a
process of its own (`_contestant.py`), since two event loops cannot share a thread; so does
cueball, under Node. What is not installed is left out.
"""
