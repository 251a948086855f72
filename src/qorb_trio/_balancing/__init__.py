"""Which backend serves the next claim.

Nothing here imports trio. The dispatcher in `_claims` asks; slot sets report when they gain
their first idle slot or lose their last one.
"""
