"""An ejection as an on-call person sees it: in statistics, metrics, qtop and the log."""

from __future__ import annotations

import json
import logging

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qorb_trio import FixedResolver, Policy, open_pool
from qorb_trio.opentelemetry import instrument
from qorb_trio.qtop._observer import Observer
from qorb_trio.testing import FakeConnector

from .kit import reading


async def seen_by_qtop(observer: Observer) -> dict[str, object]:
    """Return the part of a message of qtop that is about the backend."""
    snapshot = await observer.snapshot(0)
    parts: dict[str, dict[str, object]] = json.loads(f"{{{snapshot.sets}}}")
    return parts["a.test:80"]


async def test_an_ejection_and_the_return(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A backend that fails five claims is shown as ejected everywhere, and then as back."""
    caplog.set_level(logging.INFO, "qorb_trio")
    address = {"server_address": "a.test", "server_port": 80}
    resolver = FixedResolver(["a.test:80", "b.test:80"])
    policy = Policy(max_slots=4, spares_wanted=4)
    async with (
        trio.open_nursery() as nursery,
        open_pool(nursery, resolver, FakeConnector(), policy=policy) as pool,
    ):
        await pool.wait_ready(4)
        observer = Observer([pool])
        with reading() as reader, instrument(pool, reader.provider), observer.watching():
            [bad, good] = [one.backend for one in pool.stats().backends.values()]
            for _ in range(5):
                claim = await pool.acquire(avoid=[good])
                claim.report(failed=True)
                claim.release()

            stats = pool.stats().backends["a.test:80"]
            assert stats.failed_claims == 5
            assert stats.ejected_until is not None
            assert reader.value("qorb_trio.backend.ejected", **address) == 1
            assert reader.value("qorb_trio.backend.ejections", **address) == 1
            shown = await seen_by_qtop(observer)
            assert shown["ejected_for"] == pytest.approx(stats.ejected_until - trio.current_time())
            assert shown["failed_claims"] == 5
            assert "backend a.test:80 is ejected for" in caplog.text

            await trio.sleep_until(stats.ejected_until)
            await wait_all_tasks_blocked()
            async with pool.claim() as connection:
                assert connection.backend == bad
            assert pool.stats().backends["a.test:80"].ejected_until is None
            assert reader.value("qorb_trio.backend.ejected", **address) == 0
            assert reader.value("qorb_trio.backend.restorations", **address) == 1
            await trio.sleep(1)
            assert (await seen_by_qtop(observer))["ejected_for"] is None
            assert "backend a.test:80 is no longer ejected" in caplog.text
