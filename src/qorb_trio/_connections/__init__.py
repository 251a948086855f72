"""I/O on connections: dialling, checking, recycling and closing.

Each active backend has one task, and that task's nursery runs all of this work.
"""
