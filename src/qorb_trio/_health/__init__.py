"""Decisions about the health of backends: may they be used, and when are they tried again?

Times come in as arguments. `Outcomes` in `_connections` is the only caller that records.
"""
