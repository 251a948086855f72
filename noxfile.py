"""The one door: every command of this project is a nox session.

`nox -l` lists them, `nox -s NAME` runs one, and what follows a `--` goes to the program behind
the session: `nox -s tests-3.12 -- -k claim -x`.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "typing", "tests"]
# A Python that this machine does not have is skipped, and said so, not fetched.
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")

SUPPORTED = nox.project.python_versions(PYPROJECT)
#: The supported versions, and the one that runs this, which may be newer than all of them.
PYTHONS = [*SUPPORTED]
if (running := f"{sys.version_info.major}.{sys.version_info.minor}") not in PYTHONS:
    PYTHONS.append(running)

CODE = ("src", "tests", "examples", "benchmarks", "noxfile.py", "docs/conf.py")

#: Servers and their client, which run until they are stopped: tests/examples runs them.
ENDLESS_EXAMPLES = {"dns_server", "tcp_echo_server", "tcp_echo_workload"}


def install(session: nox.Session, *groups: str, project: bool = True) -> None:
    """Install dependency groups of pyproject.toml, and the project as an editable."""
    requirements = [line for group in groups for line in dependency_group(group)]
    session.install(*(["--editable", "."] if project else []), *requirements)


def dependency_group(name: str) -> list[str]:
    """The requirements of one dependency group, those of the groups in it included."""
    return list(nox.project.dependency_groups(PYPROJECT, name))


def run_pytest(session: nox.Session, *command: str, **env: str) -> None:
    """All tests; or, if there are arguments, pytest with those."""
    if session.posargs:
        session.run(*command, *session.posargs, env=env)
        return
    # What runs on the mock clock can share the machine, what watches the real one cannot.
    session.run(*command, "-n", "auto", "--dist", "worksteal", "-m", "not real", env=env)
    session.run(*command, "-m", "real", env=env)


def run_under_coverage(session: nox.Session) -> None:
    """The same, leaving data for `coverage_report`."""
    data_file = f".coverage.{session.python}"
    for leftover in ROOT.glob(f"{data_file}.*"):
        leftover.unlink()
    run_pytest(session, "coverage", "run", "-m", "pytest", COVERAGE_FILE=data_file)


def programs(session: nox.Session, folder: str) -> list[Path]:
    """The programs of a folder (not what they import), those asked for if any are."""
    return [
        file
        for file in sorted(Path(folder).glob("*.py"))
        if "__main__" in file.read_text() and file.stem in (session.posargs or [file.stem])
    ]


@nox.session(reuse_venv=True)
def demo(session: nox.Session) -> None:
    """See a pool at work: examples/demo.py."""
    install(session, "examples")
    session.run("python", "examples/demo.py", *session.posargs)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The tests, on every Python that is here; arguments go to pytest."""
    install(session, "tests")
    if os.environ.get("QORB_TRIO_COVERAGE"):
        run_under_coverage(session)
    else:
        run_pytest(session, "pytest")


@nox.session
def lowest(session: nox.Session) -> None:
    """The tests with the oldest versions of the dependencies that pyproject.toml allows."""
    project = PYPROJECT["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    floors = [line.replace(">=", "==") for group in groups for line in group]
    session.install("--editable", ".", *floors, *dependency_group("tests"))
    run_pytest(session, "pytest")


@nox.session(python=PYTHONS)
def coverage(session: nox.Session) -> None:
    """The tests under coverage, on every Python that is here, and the report of them all."""
    install(session, "tests")
    run_under_coverage(session)
    session.notify("coverage_report")


@nox.session(default=False)
def coverage_report(session: nox.Session) -> None:
    """Combine what `coverage` has measured, and insist on nearly all of src."""
    session.install(*(line for line in dependency_group("tests") if line.startswith("coverage")))
    session.run("coverage", "combine")
    session.run("coverage", "report", "--include=tests/*")
    session.run("coverage", "report", "--include=src/*", "--fail-under=99")


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff, flake8-async for the rules that ruff does not have, and who may import whom."""
    install(session, "lint", project=False)
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("flake8", *CODE)
    session.run("lint-imports", "--no-logo", env={"PYTHONPATH": "src"})


@nox.session(name="format", default=False)
def format_(session: nox.Session) -> None:
    """Mend what ruff can mend by itself."""
    install(session, "lint", project=False)
    session.run("ruff", "check", "--fix")
    session.run("ruff", "format")


@nox.session
def typing(session: nox.Session) -> None:
    """The tree under mypy, the public interface under pyright; arguments go to mypy."""
    install(session, "typing")
    for version in (SUPPORTED[0], SUPPORTED[-1]):
        session.run("mypy", "--python-version", version, *session.posargs)
    quiet = {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    session.run("pyright", env=quiet)
    session.run("pyright", "--verifytypes", "qorb_trio", "--ignoreexternal", env=quiet)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, into docs/_build/html; warnings are errors."""
    install(session, "docs")
    session.run("towncrier", "build", "--draft", "--version", "next", silent=True)
    session.run(
        "sphinx-build", "--quiet", "--fresh-env", "--fail-on-warning", "--keep-going",
        *session.posargs, "docs", "docs/_build/html",
    )  # fmt: skip


@nox.session
def examples(session: nox.Session) -> None:
    """Every example that ends by itself; arguments choose some by name."""
    install(session, "examples")
    for program in programs(session, "examples"):
        if program.stem not in ENDLESS_EXAMPLES:
            session.run("python", str(program))


@nox.session
def bench(session: nox.Session) -> None:
    """Every benchmark, then the charts and the tables; arguments choose some by name."""
    install(session, "bench", "qtop")
    for program in programs(session, "benchmarks"):
        if program.stem != "chart":
            results = program.parent / "results" / f"{program.stem}.json"
            session.run("python", str(program), "--json", str(results))
    session.run("python", "benchmarks/chart.py")


@nox.session(default=False)
def soak(session: nox.Session) -> None:
    """Faults at random on real sockets: `nox -s soak -- --minutes 20 --seed 1`."""
    install(session, "tests")
    session.run("python", "-W", "error::ResourceWarning", "-m", "tests.soak", *session.posargs)


@nox.session(default=False)
def simulate(session: nox.Session) -> None:
    """Whole pools in virtual time, drawn from seeds: `nox -s simulate -- --seeds 2000`."""
    install(session, "tests")
    session.run("python", "-m", "tests.simulation", *session.posargs)


@nox.session(default=False)
def fleet(session: nox.Session) -> None:
    """A simulated fleet: `nox -s fleet -- --clients 50 --backends 50 --scenario cold-start`."""
    install(session, "tests")
    session.run("python", "-m", "tests.fleet", *session.posargs)


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """Fuzz the DNS messages, guided by coverage where the fuzzer can be installed."""
    install(session, "tests")
    try:
        session.install("--only-binary=atheris", "atheris>=2.3")
    except nox.command.CommandFailed:
        session.skip("atheris has no wheel for this Python on this machine")
    session.run("pytest", "tests/fuzz", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Plant known faults, one at a time: the tests must catch each; arguments choose some."""
    install(session, "tests")
    session.run("python", "-m", "tests.mutants", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build sdist and wheel, and run the sdist's tests, or some, against the installed wheel."""
    install(session, "build", project=False)
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(dist))
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    session.install(str(wheel), *dependency_group("tests"))
    # Out of the checkout, and without src: what is imported can only be the wheel.
    with tempfile.TemporaryDirectory() as elsewhere:
        shutil.unpack_archive(sdist, elsewhere)
        (unpacked,) = Path(elsewhere).iterdir()
        shutil.rmtree(unpacked / "src")
        with session.chdir(unpacked):
            run_pytest(session, "pytest")
