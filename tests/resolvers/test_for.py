"""`resolver_for`: the right resolver for what a user wrote."""

from __future__ import annotations

import re

import pytest

from qorb_trio import DnsResolver, DnsResolverConfig, FixedResolver, resolver_for


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1:5432", ("10.0.0.1", 5432)),
        ("10.0.0.1", ("10.0.0.1", 99)),
        ("[::1]:80", ("::1", 80)),
        ("[::1]", ("::1", 99)),
        ("::1", ("::1", 99)),
        ("fe80::1%eth0", ("fe80::1%eth0", 99)),
        ("localhost:80", ("localhost", 80)),
        ("LocalHost.", ("LocalHost", 99)),
        ("/run/x.sock", "/run/x.sock"),
        ("./x.sock", "./x.sock"),
    ],
)
def test_addresses(text: str, address: object) -> None:
    """Addresses, this host and Unix sockets need no DNS."""
    resolver = resolver_for(text, 99)
    assert isinstance(resolver, FixedResolver)
    assert [backend.address for backend in resolver.backends] == [address]


@pytest.mark.parametrize(
    ("text", "default_port", "service", "port"),
    [
        ("_echo._tcp.test.com", None, "_echo._tcp.test.com", None),
        ("_echo._tcp.test.com", 80, "_echo._tcp.test.com", 80),
        ("db.test.com:5432", None, "db.test.com", 5432),
        ("db.test.com:5432", 80, "db.test.com", 5432),
        ("db.test.com", 80, "db.test.com", 80),
        ("1.moray.emy-10.joyent.us", None, "1.moray.emy-10.joyent.us", None),
        ("myservice", None, "myservice", None),
        ("DB.", None, "db", None),
        ("bücher.example:80", None, "xn--bcher-kva.example", 80),
    ],
)
def test_names(text: str, default_port: int | None, service: str, port: int | None) -> None:
    """Names are looked up in DNS; the port in the text wins over the default."""
    resolver = resolver_for(text, default_port)
    assert isinstance(resolver, DnsResolver)
    assert resolver.service == service
    assert resolver.config.default_port == port


def test_config_is_passed_on() -> None:
    """Nameservers and configuration are those given, but for the port in the text."""
    config = DnsResolverConfig(default_port=1, query_timeout=3.0)
    resolver = resolver_for("a.b:80", nameservers=["10.0.0.1"], config=config)
    assert isinstance(resolver, DnsResolver)
    assert (resolver.config.default_port, resolver.config.query_timeout) == (80, 3.0)
    resolver = resolver_for("a.b", config=config)
    assert isinstance(resolver, DnsResolver)
    assert resolver.config is config


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":80",
        "10.0.0.1",
        "::1",
        "localhost",
        "10.0.0.1:-3",
        "10.0.0.1:ab123",
        "10.0.0.1:70000",
        "10.0.0.1:0",
        "10.0.0.1:",
        "10.0.0.1:99999999999999999999",
        "a.b:",
        "a.b:\uff18\uff10",
        "a.b:http",
        "999.1.1.1:80",
        "1.2.3:80",
        "80",
        "[::1",
        "[::1]x",
        "[::1]:",
        "[a.b]:80",
        "::1:zz",
        "a:b:80",
        "a..b",
        "a b.c",
        "http://a.b",
        "a.b/c",
        "/",
        "/run/",
        "/run/\0x",
        "user@a.b",
        "☃.test",
        "x" * 64 + ".test",
    ],
)
def test_junk(text: str) -> None:
    """Junk is a `ValueError` that shows it."""
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        resolver_for(text)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((None,), TypeError),
        ((80,), TypeError),
        (("a", "80"), TypeError),
        (("a", True), TypeError),
        (("a", 0), ValueError),
        (("a", 65536), ValueError),
    ],
)
def test_wrong_arguments(arguments: tuple[object, ...], error: type[Exception]) -> None:
    """Arguments of the wrong kind are errors."""
    with pytest.raises(error):
        resolver_for(*arguments)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="config"):
        resolver_for("a.b", config=17)  # type: ignore[arg-type]
