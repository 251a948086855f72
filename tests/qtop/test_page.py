"""The page, in a browser."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from qorb_trio import Backend, BackendStats, Policy, Pool, open_pool, qtop
from qorb_trio._util import printable
from qorb_trio.qtop import _observer
from qorb_trio.qtop._snapshot import pool_part, set_part
from qorb_trio.testing import FakeConnection, FakeConnector, ManualResolver

from .chromium import a_browser, needs_chromium

pytestmark = [pytest.mark.real, needs_chromium]

#: A backend's name that would be harmful if it were not text.
EVIL = "<img src=x onerror=alert(1)>"
#: A name that no person could read as it is: it ends lines, hides and reverses characters.
UNSEEN = "a\n\x1b[8m\u202eb\u200b\u2066\xad\u3164\ufe0f\U000e0041\xa0c"
TOKEN = "a-secret-of-the-house"


async def hold(pool: Pool[FakeConnection]) -> None:
    """Hold a connection for as long as one can."""
    async with pool.claim():
        await trio.sleep_forever()


async def test_the_page_in_a_browser(tmp_path: Path) -> None:
    """The page shows backends, holders, their stacks and events, and comes back by itself."""
    connector = FakeConnector()
    resolver = ManualResolver(
        [Backend(("10.0.0.1", 80), name="good"), Backend(("10.0.0.2", 80), name=EVIL)]
    )
    connector.fail(EVIL, exc=OSError("out of order"))
    policy = Policy(spares_wanted=4, max_slots=8)
    async with (
        a_browser() as tab,
        trio.open_nursery() as nursery,
        open_pool(nursery, resolver, connector, policy=policy, name="db") as pool,
        trio.open_nursery() as inner,
    ):
        for number in range(3):
            inner.start_soon(hold, pool, name=f"handler {number}")
        serve = partial(qtop.serve, [pool, pool], token=TOKEN)
        server = await inner.start(a_nursery)
        listeners = await server.start(partial(serve, port=0))
        port = listeners[0].socket.getsockname()[1]

        await tab.open(f"http://127.0.0.1:{port}/")
        await tab.resize(1280, 900, scheme="light")
        await tab.wait_until("byId('token').hidden === false")
        # As somebody would who types it.
        await tab.ask(f"byId('token').token.value = '{TOKEN}'; byId('token').requestSubmit()")
        await tab.wait_until("byId('status').textContent === 'live'")
        await tab.wait_until("document.querySelectorAll('#backends tbody tr').length === 4")
        await tab.wait_until("document.querySelectorAll('#claims-chart path').length > 0")
        names = await tab.ask("[...document.querySelectorAll('td.name')].map(it => it.textContent)")
        assert sorted(names) == sorted(
            f"{it}/{name}" for it in ("db", "db#2") for name in ("good", EVIL)
        )
        assert await tab.ask("document.querySelector('tr.offline .name').textContent") in names
        assert await tab.ask("document.querySelector('.bar .claimed').textContent") == "3"

        # Of several pools, whose backend it is goes with its name.
        await tab.wait_until("byId('holders').textContent.includes('db/good')")
        assert "db#2/good" in await tab.ask("byId('holders').textContent")

        # One pool of the two, and where one of its holders is.
        await tab.ask("byId('pool').value = 'db'; byId('pool').dispatchEvent(new Event('change'))")
        await tab.wait_until("document.querySelectorAll('#holders tbody tr').length === 3")
        assert "handler 0" in await tab.ask("byId('holders').textContent")
        assert "db/good" not in await tab.ask("byId('holders').textContent")
        await tab.ask("document.querySelector('#holders tbody tr').click()")
        await tab.wait_until("document.querySelector('#holders pre')?.textContent.includes('hold')")

        # A backend that comes is an event; sorting and filtering.
        resolver.set([("10.0.0.1", 80), ("10.0.0.3", 80)])
        await tab.wait_until("byId('events').textContent.includes('backend added')")
        await tab.ask("document.querySelector('#backends th:nth-child(2) button').click()")
        assert (
            await tab.ask("document.querySelector('th[aria-sort=descending]').textContent")
            == "slots"
        )
        await tab.ask(
            "byId('filter').value = '10.0.0.3'; byId('filter').dispatchEvent(new Event('input'))"
        )
        await tab.wait_until("document.querySelectorAll('#backends tbody tr').length === 1")

        png = await tab.screenshot(tmp_path / "page.png")
        assert png.startswith(b"\x89PNG")
        assert len(png) > 20_000  # an empty page is a few thousand bytes
        assert await tab.ask("document.documentElement.scrollWidth <= innerWidth")
        await tab.resize(400, 800, scheme="dark")
        assert await tab.ask("document.documentElement.scrollWidth <= innerWidth")
        # The browser's log contains only the first refusal.
        assert not [it for it in tab.complaints if '"source": "network"' not in it]

        # The program ends, and is started again.
        server.cancel_scope.cancel()
        await tab.wait_until("byId('status').className === 'bad'")
        again = await inner.start(a_nursery)
        await again.start(partial(serve, port=port))
        await tab.wait_until("byId('status').textContent === 'live'")
        inner.cancel_scope.cancel()


async def a_nursery(task_status: trio.TaskStatus[trio.Nursery]) -> None:  # noqa: ASYNC114
    """A nursery that can be cancelled by itself."""
    async with trio.open_nursery() as nursery:
        task_status.started(nursery)
        await trio.sleep_forever()


async def test_h_nothing_invisible_on_the_page() -> None:
    """Names, errors and tasks that cannot be seen as they are come escaped, as in Python."""
    connector = FakeConnector()
    resolver = ManualResolver([Backend(("a", 1), name="good"), Backend(("b", 2), name=UNSEEN)])
    connector.fail(UNSEEN, exc=OSError(f"x{UNSEEN}"))
    async with (
        a_browser() as tab,
        trio.open_nursery() as nursery,
        open_pool(nursery, resolver, connector, name=UNSEEN) as pool,
        trio.open_nursery() as inner,
    ):
        inner.start_soon(hold, pool, name=UNSEEN)
        (listener,) = await inner.start(partial(qtop.serve, [pool], port=0))
        await tab.open(f"http://127.0.0.1:{listener.socket.getsockname()[1]}/")
        await tab.wait_until("document.querySelectorAll('#backends tbody tr').length === 2")
        await tab.wait_until("byId('events').textContent.includes('connect failed')")
        text = await tab.ask("document.body.innerText")
        titles = await tab.ask("[...document.querySelectorAll('[title]')].map((it) => it.title)")
        inner.cancel_scope.cancel()
    for seen in (*text.splitlines(), *titles):
        assert printable(seen.replace("\t", " ")) == seen.replace("\t", " ")
    # As a pool, as a backend, as a task, and in an event.
    assert text.count(printable(UNSEEN)) >= 4
    assert f"OSError: x{printable('a')}" in text


async def test_an_ejected_backend_and_trouble_on_the_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An ejected backend is marked with the time left, and a resolver's trouble is shown."""
    monkeypatch.setattr(
        _observer, "pool_part", lambda *args, **more: pool_part(*args, **more) | {"trouble": "NX"}
    )

    def ejected(pool_name: str, stats: BackendStats, *more: Any) -> str:
        now = trio.current_time()
        stats = attrs.evolve(stats, ejected_until=now + 4.2, failed_claims=77, stale=3)
        return set_part(pool_name, stats, None, now)

    monkeypatch.setattr(_observer, "set_part", ejected)
    async with (
        a_browser() as tab,
        trio.open_nursery() as nursery,
        open_pool(nursery, ManualResolver(["a.test:80"]), FakeConnector(), name="db") as pool,
        trio.open_nursery() as inner,
    ):
        (listener,) = await inner.start(partial(qtop.serve, [pool], port=0))
        await tab.open(f"http://127.0.0.1:{listener.socket.getsockname()[1]}/")
        await tab.wait_until("byId('status').textContent === 'live'")
        row = await tab.ask("document.querySelector('tr.ejected').innerText")
        assert "ejected, 4.2 s left" in row
        assert "77" in row
        assert await tab.ask("document.querySelector('.trouble').textContent") == "db: NX"
        assert "1 ejected" in await tab.ask("byId('backend-count').textContent")
        inner.cancel_scope.cancel()
