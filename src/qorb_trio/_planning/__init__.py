"""How many slots each backend should have: pure functions over snapshots of the slot sets.

Nothing here imports trio. The rebalancer in `_pool` calls it and carries out the plan.
"""
