"""Hostile messages that a nameserver may send, and the harm that they must not do."""
