"""A sweep of every public await: each is cancelled at each of its steps.

`awaits` finds every public await by introspection, and `registry` has the scenarios that
sweep them, which are in the modules named ``of_...``. `test_every_await` runs each of them,
for each k until a run ends before its k-th step, and fails for an await that has none, or that
was never found waiting at a step of its own.
"""
