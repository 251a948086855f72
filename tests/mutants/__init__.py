"""Known faults, planted one at a time in a copy of the package: the tests must catch each.

The faults are in the ``.toml`` files here, one table each: in which function which code becomes
which, what a user would suffer from it, and which tests are the likeliest to notice.
`nox -s mutants` runs them all; ``nox -s mutants -- NAME ...`` some.

mutmut and cosmic-ray, which find faults by themselves, make thousands of them here, a good part
of which change nothing, and so take hours; this is a list of our own, because each fault in it
breaks a promise, has a name, and all of them together take minutes.
"""
