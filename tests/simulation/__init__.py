"""Whole pools in virtual time, each driven from one seed, and checked after every step.

`worlds` draws a world from its seed: backends, a policy, and a list of actions.
`actions` defines the actions, `play` opens the pool and performs them, and `statements`
compares the pool with the ledger after every task step. `report` counts, and explains a
failure; `reduce` leaves out the actions that do not contribute to it.

From the command line::

    nox -s simulate -- --seeds 1000
    nox -s simulate -- --seeds 1 --first 118              # one of them again
    nox -s simulate -- --seeds 1 --first 118 --only 4,7   # with two of its actions
    nox -s simulate -- --product                          # `product`: each hook in every way
"""
