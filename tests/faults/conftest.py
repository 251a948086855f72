"""A fixture for every test here that opens something: the test must leave nothing behind."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest

from .left import nothing_left


@pytest.fixture
async def leaves_nothing() -> AsyncIterator[None]:
    """Check that descriptors, tasks and objects are as many after the test as before it."""
    # Pytest keeps each log record, and with it the exception, its frames, and what is in them.
    logging.disable()
    try:
        async with nothing_left():
            yield
    finally:
        logging.disable(logging.NOTSET)
