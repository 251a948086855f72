"""A simulated fleet: many clients, each with a real pool, over many simulated backends.

Everything runs in one process and in virtual time, and follows from a seed. `hosts` models the
backends, `fleet` opens the pools, `scenarios` are the stories, `measures` are pure functions on
what was recorded, and `report`, `charts` and `page` show it. ``python -m tests.fleet`` runs it.
"""
