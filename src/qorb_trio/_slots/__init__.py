"""The state of a pool: the slots of each backend, their states, and the sums over all of them.

Everything here is synchronous and does no I/O.
"""
