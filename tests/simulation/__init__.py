"""Whole pools in virtual time, each driven from one seed, and checked after every step.

`worlds` draws a world from its seed: backends, a policy, and a list of actions.
`actions` says what can happen, `play` opens the pool and lets it happen, and `statements`
holds the pool against the ledger after every task step. `report` counts, and explains what
went wrong: `reduce` leaves out whatever is not needed for that. From the command line::

    nox -s simulate -- --seeds 1000
    nox -s simulate -- --seeds 1 --first 118              # one of them again
    nox -s simulate -- --seeds 1 --first 118 --only 4,7   # with two of its actions
    nox -s simulate -- --product                          # `product`: each hook in every way
"""
