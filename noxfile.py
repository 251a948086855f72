"""The one door: every command of this project is a nox session.

`nox -l` lists them, `nox -s NAME` runs one, and what follows a `--` goes to the program behind
the session: `nox -s tests-3.12 -- -k claim -x`.
"""

from __future__ import annotations

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

#: The supported versions, and the one that runs this, which may be newer than all of them.
PYTHONS = nox.project.python_versions(PYPROJECT)
if (running := f"{sys.version_info.major}.{sys.version_info.minor}") not in PYTHONS:
    PYTHONS.append(running)

CODE = ("src", "tests", "examples", "benchmarks", "noxfile.py", "docs/conf.py")

#: What an example needs so that it ends by itself.
EXAMPLE_ARGUMENTS = {"demo": ("--plain", "--seconds", "5")}


def install(session: nox.Session, *groups: str, project: bool = True) -> None:
    """Install dependency groups of pyproject.toml, and the project as an editable."""
    requirements = [line for group in groups for line in dependency_group(group)]
    session.install(*(["--editable", "."] if project else []), *requirements)


def dependency_group(name: str) -> list[str]:
    """The requirements of one dependency group, those of the groups in it included."""
    return list(nox.project.dependency_groups(PYPROJECT, name))


def example_arguments(session: nox.Session) -> list[str]:
    """The arguments for the demo: those given, else what suits whoever is watching."""
    if session.posargs:
        return session.posargs
    return [] if sys.stdin.isatty() and sys.stdout.isatty() else ["--plain", "--seconds", "10"]


@nox.session(reuse_venv=True)
def demo(session: nox.Session) -> None:
    """See a pool at work: examples/demo.py."""
    install(session, "examples")
    session.run("python", "examples/demo.py", *example_arguments(session))


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The tests, on every Python that is here; arguments go to pytest."""
    install(session, "tests")
    session.run("pytest", *session.posargs)


@nox.session
def lowest(session: nox.Session) -> None:
    """The tests with the oldest versions of the dependencies that pyproject.toml allows."""
    floors = [line.replace(">=", "==") for line in PYPROJECT["project"]["dependencies"]]
    session.install("--editable", ".", *floors, *dependency_group("tests"))
    session.run("pytest", *session.posargs)


@nox.session(python=PYTHONS)
def coverage(session: nox.Session) -> None:
    """The tests under coverage, on every Python that is here, and the report of them all."""
    install(session, "tests")
    data_file = f".coverage.{session.python}"
    for leftover in ROOT.glob(f"{data_file}.*"):
        leftover.unlink()
    session.run(
        "coverage", "run", "-m", "pytest", *session.posargs, env={"COVERAGE_FILE": data_file}
    )
    session.notify("coverage_report")


@nox.session(default=False)
def coverage_report(session: nox.Session) -> None:
    """Combine what `coverage` has measured, and insist on all of src."""
    session.install(*(line for line in dependency_group("tests") if line.startswith("coverage")))
    session.run("coverage", "combine")
    session.run("coverage", "report", "--include=tests/*")
    session.run("coverage", "report", "--include=src/*", "--fail-under=100")


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff's rules and format, and flake8-async for those that ruff does not have."""
    install(session, "lint", project=False)
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("flake8", *CODE)


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
    session.run("mypy", *session.posargs)
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
    """Every example to its end, nobody at the keyboard; arguments choose some by name."""
    install(session, "examples")
    for example in sorted(ROOT.glob("examples/*.py")):
        if session.posargs and example.stem not in session.posargs:
            continue
        arguments = EXAMPLE_ARGUMENTS.get(example.stem, ())
        session.run("python", str(example.relative_to(ROOT)), *arguments)


@nox.session
def bench(session: nox.Session) -> None:
    """Every benchmark; arguments choose some by name."""
    install(session, "tests")
    for benchmark in sorted(ROOT.glob("benchmarks/*.py")):
        if session.posargs and benchmark.stem not in session.posargs:
            continue
        session.run("python", str(benchmark.relative_to(ROOT)))


@nox.session
def build(session: nox.Session) -> None:
    """Build sdist and wheel, and run the sdist's tests against the installed wheel."""
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
            session.run("pytest", *session.posargs)
