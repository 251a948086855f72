"""Known faults, planted one at a time in a copy of the package: the tests must catch each.

The faults are in the ``.toml`` files here, one table each: in which function which code becomes
which, what a user would suffer from it, and which tests are the likeliest to notice.
`nox -s mutants` runs them all; ``nox -s mutants -- NAME ...`` some.

mutmut and cosmic-ray generate thousands of faults for this package. Many of these change no
behaviour, and a run takes hours. This list is written by hand: each fault in it has a name and
breaks a promise, and all of them together take minutes.
"""
