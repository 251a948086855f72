"""Promises of the package as a whole: imports, names, docstrings, versions."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import qorb_trio
import qorb_trio.abc
import qorb_trio.http
import qorb_trio.opentelemetry
import qorb_trio.postgres
import qorb_trio.qtop
import qorb_trio.redis
import qorb_trio.resolvers
import qorb_trio.sizing
import qorb_trio.testing
from qorb_trio.qtop._guard import MIN_TOKEN
from qorb_trio.qtop._server import FRAME_RATE, MAX_CLIENTS

from .qtop.test_hostile_clients import LONGEST_GAP

ROOT = Path(__file__).parent.parent
PACKAGE = Path(qorb_trio.__file__).parent
PUBLIC_MODULES = [
    qorb_trio,
    qorb_trio.abc,
    qorb_trio.http,
    qorb_trio.opentelemetry,
    qorb_trio.postgres,
    qorb_trio.qtop,
    qorb_trio.redis,
    qorb_trio.resolvers,
    qorb_trio.sizing,
    qorb_trio.testing,
]

#: The public contract. It may grow; it does not shrink.
NAMES = {
    "qorb_trio": """
        AllClaimsUsedError AuditInstrument Backend BackendStats Balancer Candidate Claim ClaimError
        ClaimTimeoutError Connector DnsResolver DnsResolverConfig Ejection EventInstrument
        FixedResolver Instrument LeastLoaded LoggingInstrument NoBackendsError
        NoBackendsOnlineError PeakEwma Policy Pool PoolEvent PoolStats PoolTerminatedError
        QorbError ResolveError Resolver RoundRobin SetConfig TcpConnector TlsConnector
        UnixConnector is_abandonment open_pool
    """,
    "qorb_trio.abc": "Connector Instrument Resolver",
    "qorb_trio.http": "HttpConnection HttpConnector HttpResponse PoolTransport",
    "qorb_trio.postgres": "PostgresConnection PostgresConnector",
    "qorb_trio.qtop": "serve",
    "qorb_trio.redis": "RedisConnection RedisConnector RedisError",
    "qorb_trio.sizing": "Queue Sizing slots_for suggest",
    "qorb_trio.testing": "DnsServer FakeConnector ManualResolver RecordingInstrument",
    "qorb_trio.opentelemetry": "Instrumentation instrument",
}


def names_of(module: ModuleType) -> list[str]:
    """The public names that this package gives a module, lazily imported ones included."""
    return [
        name
        for name in dir(module)
        if not name.startswith("_")
        and (getattr(getattr(module, name), "__module__", None) or "").startswith("qorb_trio")
    ]


def public_objects() -> Iterator[tuple[str, type | object]]:
    """Each public class and function, by its dotted name."""
    for module in PUBLIC_MODULES:
        for name in names_of(module):
            thing = getattr(module, name)
            if inspect.isclass(thing) or inspect.isroutine(thing):
                yield f"{module.__name__}.{name}", thing


def members_of(cls: type) -> Iterator[tuple[str, object]]:
    """The public methods and properties that a class itself defines."""
    for name, member in vars(cls).items():
        if not name.startswith("_") and (
            inspect.isroutine(member) or isinstance(member, property | classmethod | staticmethod)
        ):
            yield name, member


@pytest.mark.parametrize("module", NAMES)
def test_the_contract_is_importable(module: str) -> None:
    """Every name of the public contract is there, and `dir` tells of it."""
    there = set(dir(importlib.import_module(module)))
    assert not set(NAMES[module].split()) - there


def test_public_names_say_where_they_are_from() -> None:
    """The `__module__` of a public name is a public module that has it under that name."""
    wrong = []
    for name, thing in public_objects():
        module = str(getattr(thing, "__module__", ""))
        public = re.fullmatch(r"qorb_trio(\.[a-z]\w*)*", module)
        if not public or getattr(sys.modules[module], name.rpartition(".")[2], None) is not thing:
            wrong.append(f"{name}: {module}")
    assert not wrong


def test_public_names_have_docstrings() -> None:
    """Every public class, function, method and property says what it does."""
    silent = []
    for name, thing in public_objects():
        if not inspect.getdoc(thing):
            silent.append(name)
        if isinstance(thing, type):
            silent += [
                f"{name}.{member}"
                for member in dict(members_of(thing))
                if not inspect.getdoc(getattr(thing, member))
            ]
    assert not silent


def modules_after(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after a statement."""
    code = f"import json, sys\n{statement}\nprint(json.dumps(list(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(run.stdout))


@pytest.mark.real
def test_import_is_cheap() -> None:
    """`import qorb_trio` loads nothing beyond trio, attrs and itself: no DNS, qtop or test kit."""
    extra = modules_after("import qorb_trio") - modules_after("import trio, attrs")
    roots = {module.partition(".")[0] for module in extra} - sys.stdlib_module_names
    assert roots == {"qorb_trio"}
    assert not {"qorb_trio.testing", "qorb_trio.qtop"} & extra
    assert "asyncio" not in extra


def imports_of(file: Path) -> set[str]:
    """The modules that a file of the package imports, wherever in it, by absolute name."""
    package = ["qorb_trio", *file.relative_to(PACKAGE).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def offenders(files: str, forbidden: str, *, but: str = "^$") -> list[str]:
    """The files that match one pattern and import a module that matches another."""
    return [
        f"{name} imports {module}"
        for file in sorted(PACKAGE.rglob("*.py"))
        if re.match(files, name := file.relative_to(PACKAGE).as_posix()) and not re.match(but, name)
        for module in sorted(imports_of(file))
        if re.match(forbidden, module)
    ]


def test_pure_modules_know_nothing_of_trio() -> None:
    """Modules that only calculate do not import trio."""
    pure = (
        r"(_health|_planning|_balancing)/|_model/(backend|policy|stats)\.py|_slots/expiry\.py"
        r"|_events/correlator\.py|_slots/(state|totals|registry)\.py|_validation\.py"
    )
    assert not offenders(pure, r"trio\b")


def test_parts_know_contracts_but_not_the_pool() -> None:
    """Resolvers and connectors import contracts, never the pool."""
    pool = r"qorb_trio\.(_pool|_claims|_connections|_slots|_health|_planning|_balancing)\b"
    assert not offenders("(resolvers|connectors)/", pool)


def test_only_dns_needs_dnspython() -> None:
    """Only the DNS resolver and the DNS server for tests import dnspython."""
    assert not offenders("", r"dns\b", but=r"resolvers/.*dns|testing/.*dns")


def test_only_qtop_needs_its_extra() -> None:
    """Only qtop imports the packages of its extra, and no other module imports qtop."""
    assert not offenders("", r"(wsproto|rich|qorb_trio\.qtop)\b", but="qtop/|_qtop_command")
    assert not offenders("", r"h11\b", but="(qtop|http)/")


def test_the_group_for_qtop_is_its_extra() -> None:
    """The tests run with what the extra brings to users."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extra = document["project"]["optional-dependencies"]["qtop"]
    assert document["dependency-groups"]["qtop"] == extra


def test_only_postgres_needs_its_extra() -> None:
    """Only `postgres` imports psycopg, and nothing but `postgres` imports it."""
    assert not offenders("", r"(psycopg|qorb_trio\.postgres)\b", but="postgres/")


def test_only_redis_needs_its_extra() -> None:
    """Only `redis` imports hiredis, and nothing but `redis` imports it."""
    assert not offenders("", r"(hiredis|qorb_trio\.redis)\b", but="redis/")


def test_only_http_needs_its_extra() -> None:
    """Only `http` imports httpx, and nothing but `http` imports it."""
    assert not offenders("", r"(httpx2?|qorb_trio\.http)\b", but="http/")


def test_only_metrics_need_opentelemetry() -> None:
    """Only `opentelemetry` imports OpenTelemetry's API, and nothing imports it."""
    assert not offenders("", r"(qorb_trio\.)?opentelemetry\b", but="opentelemetry/")


def test_nothing_needs_the_test_kit() -> None:
    """Nothing outside `testing` imports it."""
    assert not offenders("", r"qorb_trio\.testing\b", but="testing/")


@pytest.mark.parametrize(
    "file",
    sorted((ROOT / "tests").rglob("test_*.py")),
    ids=lambda file: file.relative_to(ROOT / "tests").as_posix(),
)
def test_every_test_says_what_must_hold(file: Path) -> None:
    """Each test has a docstring of one sentence."""
    silent = [
        f"{file.name}:{node.lineno} {node.name}: {sentence!r}"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not is_one_sentence(sentence := ast.get_docstring(node) or "")
    ]
    assert not silent


def is_one_sentence(text: str) -> bool:
    """Return True if a text ends as a sentence does, and no other sentence begins within it."""
    return text.endswith((".", "?", "!")) and not re.search(r"\w{3,}[`)\"']*[.?!]\s+[A-Z]", text)


def test_version_is_that_of_the_project() -> None:
    """The installed package has the version of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert importlib.metadata.version("qorb-trio") == project["version"]
    assert qorb_trio.__version__ == project["version"]
    with pytest.raises(AttributeError, match="has no attribute '__versoin__'"):
        getattr(qorb_trio, "__versoin__")  # noqa: B009 - the type checkers know better


@pytest.mark.real
def test_the_version_is_read_when_it_is_asked_for() -> None:
    """To import the package does not read the metadata, which takes milliseconds."""
    program = (
        "import sys, qorb_trio; assert 'importlib.metadata' not in sys.modules;"
        "print(qorb_trio.__version__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == qorb_trio.__version__


def test_h_links_and_policy() -> None:
    """The metadata and the README lead to the security policy and to the other pages."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    urls = pyproject["project"]["urls"]
    assert {"Documentation", "Source", "Changelog", "Issues", "Security"} <= urls.keys()
    home = urls["Source"]
    assert all(url.startswith(home) for url in urls.values())
    for url in urls.values():
        path = re.sub(rf"^{re.escape(home)}(/(blob|tree)/main)?/?", "", url)
        assert path == "issues" or (ROOT / path).exists()
    policy = (ROOT / "SECURITY.md").read_text()
    assert f"{home}/security/advisories/new" in policy
    assert f"({urls['Security']})" in (ROOT / "README.md").read_text()
    assert "SECURITY.md" in (ROOT / "docs" / "security.md").read_text()
    assert re.search(r"^security$", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE)


def test_h_the_policy_says_what_is_so() -> None:
    """The numbers in the security policy are those of the code."""
    policy = " ".join((ROOT / "SECURITY.md").read_text().split())
    assert f"token of at least {MIN_TOKEN} characters" in policy
    assert f"At most {MAX_CLIENTS} clients" in policy
    assert f"may send {FRAME_RATE:.0f} frames per second" in policy
    assert f"at most {LONGEST_GAP * 1000:.0f} ms" in policy


def test_h_no_dependency_allows_a_known_vulnerability() -> None:
    """Each mention of h11 excludes the versions of CVE-2025-43859, in extras and in groups."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = pyproject["project"]["optional-dependencies"]
    lines = [
        line
        for group in (*extras.values(), *pyproject["dependency-groups"].values())
        for line in group
        if isinstance(line, str) and line.startswith("h11")
    ]
    assert len(lines) >= 2
    assert {*lines} == {"h11>=0.16"}


def test_package_is_typed() -> None:
    """Type checkers find the marker that lets them trust the package's annotations."""
    assert (PACKAGE / "py.typed").is_file()


def test_the_reference_has_every_public_name() -> None:
    """Every public name has an entry in the reference; those of the test kit have it together."""
    pages = "".join(page.read_text() for page in ROOT.glob("docs/api-*.md"))
    entries = set(re.findall(r"^\.\. auto\w+:: ([\w.]+)", pages, re.MULTILINE))
    assert "qorb_trio.testing" in entries
    assert not {*names_of(qorb_trio), *names_of(qorb_trio.resolvers)} - entries
    assert {f"qorb_trio.qtop.{name}" for name in names_of(qorb_trio.qtop)} <= entries


def test_news_fragments_are_named_for_towncrier() -> None:
    """A news fragment is called ``ISSUE.TYPE.md``, the type being one that is configured."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]
    kinds = "|".join(kind["directory"] for kind in tool["type"])
    names = {file.name for file in (ROOT / "newsfragments").iterdir()} - {"README.md"}
    assert not [name for name in names if not re.fullmatch(rf"\d+\.({kinds})(\.\d+)?\.md", name)]


def test_pages_name_sessions_that_exist() -> None:
    """Every ``nox -s NAME`` in the pages for people is a session of noxfile.py."""
    tree = ast.parse((ROOT / "noxfile.py").read_text())
    sessions = {node.name.rstrip("_") for node in tree.body if isinstance(node, ast.FunctionDef)}
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("newsfragments/*.md")]
    named = {session for page in pages for session in re.findall(r"nox -s (\w+)", page.read_text())}
    assert not named - sessions


@pytest.mark.parametrize("folder", ["qtop", "opentelemetry"])
def test_watchers_import_public_names_only(folder: str) -> None:
    """qtop and the OpenTelemetry module use the public interface, like a user's own monitoring."""
    allowed = {"_qtop_command", "_util", "_validation"}
    for path in sorted((PACKAGE / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 2:
                first = (node.module or "").partition(".")[0]
                assert first in {"", "abc"} | allowed, (path.name, node.module)
                if not first:
                    private = {it.name for it in node.names if it.name.startswith("_")}
                    assert private <= allowed, (path.name, private)
            elif isinstance(node, ast.ImportFrom | ast.Import):
                names = [getattr(node, "module", None) or "", *(it.name for it in node.names)]
                assert not any(it.startswith("qorb_trio") for it in names), (path.name, names)
