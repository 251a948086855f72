"""Hostile messages: what a nameserver may send, and what must not come of it."""
