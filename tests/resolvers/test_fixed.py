"""`FixedResolver`: backends that are known beforehand."""

from __future__ import annotations

from collections.abc import Collection

import pytest
import trio

from qorb_trio import Backend, FixedResolver, resolver_for


async def test_it_sends_once_and_returns() -> None:
    """The backends are sent once, in the order given; and again by another run."""
    resolver = FixedResolver(["127.0.0.1:80", ("::1", 81), Backend("/run/x.sock"), "[::1]:82"])
    outbox, inbox = trio.open_memory_channel[Collection[Backend]](2)
    await resolver.run(outbox)
    await resolver.run(outbox)
    expected = ("127.0.0.1:80", "[::1]:81", "/run/x.sock", "[::1]:82")
    for _ in range(2):
        assert tuple(backend.name for backend in await inbox.receive()) == expected
    assert inbox.statistics().current_buffer_used == 0
    assert "127.0.0.1" in repr(resolver)


def test_equal_backends_count_once() -> None:
    """The same address twice is one backend; one name for two addresses is an error."""
    assert len(FixedResolver(["a:1", ("a", 1), Backend(("a", 1))]).backends) == 1
    with pytest.raises(ValueError, match="two addresses under the name 'x'"):
        FixedResolver([Backend(("a", 1), name="x"), Backend(("a", 2), name="x")])


@pytest.mark.parametrize("path", ["/run/x.sock", "./x", "../x.sock", "/x", "/run/x:80"])
def test_a_path_is_a_unix_socket(path: str) -> None:
    """A string that can only be a path is that Unix socket, as for `resolver_for`."""
    assert FixedResolver([path, "a:1"]).backends == (Backend(path), Backend(("a", 1)))
    resolver = resolver_for(path)
    assert isinstance(resolver, FixedResolver)
    assert resolver.backends == (Backend(path),)


def test_no_backends() -> None:
    """An empty collection is a set without backends; a generator is taken too."""
    assert FixedResolver([]).backends == ()
    assert len(FixedResolver(f"a:{n}" for n in (1, 2)).backends) == 2


@pytest.mark.parametrize("error", [TypeError, ValueError])
def test_a_bare_string_is_an_error(error: type[Exception]) -> None:
    """A string in place of a collection is an error that shows the right argument."""
    with pytest.raises(error, match=r"write \['127.0.0.1:80'\]"):
        FixedResolver("127.0.0.1:80")


def test_a_bare_pair_is_an_error() -> None:
    """One ``(host, port)`` in place of a collection is an error that shows the right argument."""
    with pytest.raises(ValueError, match=r"addresses .* write \[\('127.0.0.1', 80\)\]"):
        FixedResolver(("127.0.0.1", 80))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (None, TypeError),
        (80, TypeError),
        (Backend(("a", 1)), TypeError),
        ([80], TypeError),
        ([None], TypeError),
        (["a"], ValueError),
        (["::1:80"], ValueError),
        (["a:80", " b:80"], ValueError),
        (["a:80,b:80"], ValueError),
        (["run/x:80"], ValueError),
        (["run/x.sock"], ValueError),
        (["/run/"], ValueError),
        (["/run/\0x"], ValueError),
        ([""], ValueError),
        (["[[::1]]:80"], ValueError),
        ([("a", 0)], ValueError),
        ([("a", 65536)], ValueError),
        ([("a", "80")], TypeError),
    ],
)
def test_what_is_no_address(given: object, error: type[Exception]) -> None:
    """Anything but an address is an error at construction."""
    with pytest.raises(error):
        FixedResolver(given)  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["http://a:80", "postgres://user@db:5432/x", "https://a"])
def test_a_url_is_an_error_that_tells_what_to_give(url: str) -> None:
    """A URL is a common mistake: the error says "a URL, give host:port"."""
    with pytest.raises(ValueError, match="a URL, give host:port"):
        FixedResolver([url])
    with pytest.raises(ValueError, match="a URL, give host:port"):
        resolver_for(url)


@pytest.mark.parametrize("text", ["[10.0.0.1]:80", "[a.test]:80"])
def test_brackets_are_for_ipv6(text: str) -> None:
    """Brackets around anything but an IPv6 address are an error."""
    with pytest.raises(ValueError, match="brackets are for IPv6"):
        FixedResolver([text])
