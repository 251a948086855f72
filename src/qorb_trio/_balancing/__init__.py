"""Choice of the backend that serves the next claim.

The dispatcher in `_claims` asks the idle index. Slot sets tell the index when they gain
their first idle slot and when they lose their last one. Nothing here imports trio.
"""
