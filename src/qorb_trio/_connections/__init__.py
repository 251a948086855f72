"""I/O on connections: dialling, checking, recycling and closing.

Each active backend with work under way has one task, and that task's nursery runs all of it.
"""
