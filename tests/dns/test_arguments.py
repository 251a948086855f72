"""The arguments of a `DnsResolver`: names, nameservers, configuration, resolv.conf."""

from __future__ import annotations

import math
import random
import subprocess
import sys

import pytest

from qorb_trio import DnsResolver, DnsResolverConfig
from qorb_trio.resolvers._dns.servers import Server, checked_nameservers
from qorb_trio.resolvers._dns.system_files import SystemConfig, parse_resolv_conf, search_names


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("_echo._tcp.Test.COM.", "_echo._tcp.test.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example.", "xn--bcher-kva.example"),
        ("_svc._tcp.例え.jp", "_svc._tcp.xn--r8jz45g.jp"),
        ("x" * 63 + ".test", "x" * 63 + ".test"),
        (r"My\032Printer._ipp._tcp.local", r"my\032printer._ipp._tcp.local"),
    ],
)
def test_names(given: str, name: str) -> None:
    """Names are lower case A-labels without a final dot, whatever is given."""
    resolver = DnsResolver(given)
    assert resolver.service == name
    assert name in repr(resolver).replace("\\\\", "\\")


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a..b",
        ".a",
        "x" * 64 + ".test",
        "ü" * 60 + ".test",
        ".".join(["x" * 60] * 5),
        "😀.test",
        "a b",
        "a.b:80",
        "http://a",
        "a\n",
        "a\0b",
        "10.0.0.1",
        "::1",
        "\\999",
    ],
)
def test_bad_names(name: str) -> None:
    """A name that cannot exist is a `ValueError` at construction, naming the argument."""
    with pytest.raises(ValueError, match=r"^service "):
        DnsResolver(name)
    if name:
        with pytest.raises(ValueError, match=r"^resolver_service "):
            DnsResolver("a.b", config=DnsResolverConfig(resolver_service=name))


def test_wrong_kinds() -> None:
    """Arguments of the wrong kind are `TypeError`s that name them."""
    with pytest.raises(TypeError, match="service"):
        DnsResolver(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="config"):
        DnsResolver("a.b", config=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="rng"):
        DnsResolver("a.b", rng=3)  # type: ignore[arg-type]
    assert DnsResolver("a.b", rng=random.Random(1)).config == DnsResolverConfig()


@pytest.mark.parametrize(
    ("given", "server"),
    [
        ("10.0.0.1", Server("10.0.0.1", 53)),
        ("10.0.0.1:5353", Server("10.0.0.1", 5353)),
        ("::1", Server("::1", 53)),
        ("[::1]", Server("::1", 53)),
        ("[::1]:5353", Server("::1", 5353)),
        ("fe80::1%eth0", Server("fe80::1%eth0", 53)),
        (("::1", 5353), Server("::1", 5353)),
        ("ns.test", Server("ns.test", 53)),
        ("ns.test:54", Server("ns.test", 54)),
        ("ns_1.test.", Server("ns_1.test.", 53)),
        ("0:0::0:1", Server("::1", 53)),
        (("0:0:0:0:0:0:0:1", 5353), Server("::1", 5353)),
        ("[::A]:5353", Server("::a", 5353)),
    ],
)
def test_nameservers(given: tuple[str, int] | str, server: Server) -> None:
    """Nameservers may be written in all the usual ways; each counts once."""
    assert checked_nameservers([given, given]) == (server,)
    assert str(Server("::1", 53)) == "[::1]:53"


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ([], ValueError),
        ("10.0.0.1", ValueError),
        ("10.0.0.1", TypeError),
        (b"10.0.0.1", ValueError),
        (53, TypeError),
        ([53], TypeError),
        ([("10.0.0.1", "53")], TypeError),
        ([("10.0.0.1", True)], TypeError),
        ([(1, 53)], TypeError),
        ([("10.0.0.1", 53, 1)], TypeError),
        ([("10.0.0.1", 0)], ValueError),
        ([("10.0.0.1", 65536)], ValueError),
        (["10.0.0.1:65536"], ValueError),
        (["10.0.0.1:x"], ValueError),
        (["::1:x"], ValueError),
        ([""], ValueError),
        (["a b"], ValueError),
        (["a..b"], ValueError),
        (["a..b:53"], ValueError),
        ([("x" * 64, 53)], ValueError),
        ([".".join(["x" * 60] * 5)], ValueError),
        (["256.1.1.1"], ValueError),
        (["10.0.0:53"], ValueError),
        (["10.0.0.1."], ValueError),
        (["[ns.test]:53"], ValueError),
        (["[::1"], ValueError),
        (["[::1]x"], ValueError),
    ],
)
def test_bad_nameservers(given: object, error: type[Exception]) -> None:
    """Anything but a collection of nameservers is an error that names the argument."""
    with pytest.raises(error, match="nameservers"):
        DnsResolver("a.b", nameservers=given)  # type: ignore[arg-type]


def test_config_defaults() -> None:
    """The defaults are those of qorb, and those that the documentation gives."""
    config = DnsResolverConfig()
    assert (config.resolver_service, config.max_dns_concurrency) == (None, 5)
    assert (config.query_interval, config.query_retry_if_no_records_found) == (60, 10)
    assert (config.query_timeout, config.hardcoded_ttl, config.default_port) == (10, None, None)
    assert (config.families, config.max_stale, config.on_empty) == (("A", "AAAA"), 86400, "drop")
    assert (config.min_refresh, config.max_refresh, config.hedge_delay) == (1, 300, 0.15)
    assert (config.edns_payload, config.search) == (1232, False)
    assert DnsResolverConfig(families=["A"]).families == ("A",)
    assert DnsResolverConfig(max_stale=math.inf, hardcoded_ttl=0, hedge_delay=0).max_stale > 1e9


BAD_NUMBERS: list[object] = [-1, math.nan, True, "1", [], 10**400]
DURATIONS = [
    "query_interval",
    "query_retry_if_no_records_found",
    "query_timeout",
    "hardcoded_ttl",
    "max_stale",
    "min_refresh",
    "max_refresh",
    "hedge_delay",
]
WRONG: list[tuple[str, object]] = [
    *((name, value) for name in DURATIONS for value in BAD_NUMBERS),
    *((name, 0) for name in DURATIONS if name not in {"hardcoded_ttl", "max_stale", "hedge_delay"}),
    ("min_refresh", math.inf),
    ("min_refresh", 301),
    ("query_retry_if_no_records_found", math.inf),
    *(("max_dns_concurrency", value) for value in (0, -1, True, 1.5, None, "5")),
    *(("default_port", value) for value in (0, 65536, True, "80")),
    *(("edns_payload", value) for value in (0, 511, 65536, None)),
    *(("families", value) for value in ((), ("A", "A"), ("B",), "A", None, [1])),
    *(("on_empty", value) for value in ("Drop", None, True, ["drop"])),
    *(("resolver_service", value) for value in ("", 1)),
    *(("search", value) for value in (None, 1, "x")),
]


def shortened(value: object) -> str:
    return str(value)[:20]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=shortened)
def test_config_checks(name: str, value: object) -> None:
    """Each wrong number is an error at construction that names the field."""
    with pytest.raises((TypeError, ValueError), match=name):
        DnsResolverConfig(**{name: value})  # type: ignore[arg-type]


def test_resolv_conf() -> None:
    """Nameservers, search list and ndots are read; lines that make no sense are passed over."""
    text = """
    # a comment
    nameserver 10.0.0.1 # and another
    nameserver 10.0.0.1
    nameserver [2001:db8::1]:5353
    nameserver 2001:db8::2;old
    nameserver 10.0.0.2:54
    nameserver
    nameserver not-an-address
    nameserver [::1
    nameserver 10.0.0.1:99999
    domain old.org
    search Example.COM. . b.org
    options edns0 ndots:2 ndots:x timeout:1
    options
    sortlist
    \x00\xff garbage
    """
    assert parse_resolv_conf(text) == SystemConfig(
        (
            Server("10.0.0.1"),
            Server("2001:db8::1", 5353),
            Server("2001:db8::2"),
            Server("10.0.0.2", 54),
        ),
        ("Example.COM", "b.org"),
        2,
    )
    assert parse_resolv_conf("") == SystemConfig((Server("127.0.0.1"),))
    assert parse_resolv_conf("options ndots:99").ndots == 15
    assert parse_resolv_conf("search").search == ()


def test_search_names() -> None:
    """Suffixes come first for a name with few dots, last for others, never for absolute ones."""
    system = SystemConfig((), ("A.org", "b.org"), 2)
    assert search_names("x.y", absolute=False, system=system) == ("x.y.a.org", "x.y.b.org", "x.y")
    assert search_names("x.y.z", absolute=False, system=system)[0] == "x.y.z"
    assert search_names("x", absolute=True, system=system) == ("x",)


def test_importing_is_cheap() -> None:
    """Importing the package does not import dnspython; making a resolver does."""
    code = (
        "import sys, qorb_trio; assert 'dns' not in sys.modules;"
        "qorb_trio.FixedResolver(['a:1']); qorb_trio.DnsResolverConfig();"
        "assert 'dns' not in sys.modules;"
        "qorb_trio.DnsResolver('a.b'); assert 'dns' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
