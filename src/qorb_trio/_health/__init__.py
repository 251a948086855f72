"""Whether a backend may be trusted, and when it is tried again.

Times come in as arguments. `Outcomes` in `_connections` is the only caller that records.
"""
