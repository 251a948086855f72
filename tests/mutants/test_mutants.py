"""The list of faults fits the source, and the runner tells caught faults from the others."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest

import qorb_trio

from .__main__ import LISTS, REST, choose, main
from ._mutant import Mutant, OutOfDateError, Place, load
from ._runner import HOME, BrokenRunError, Outcome, Runner

ROOT = Path(__file__).parents[2]
PACKAGE = Path(qorb_trio.__file__).parent
MUTANTS = load(LISTS)

TOY = """\
FACTOR = 2


class Toy:
    @staticmethod
    def double(number: int) -> int:
        # A sum is a product.
        if not number:
            return 0
        return number + number


def double(number: int) -> int:
    return Toy.double(number)
"""

TOY_TESTS = """\
import toy

def test_nothing():
    assert toy

def test_double():
    assert toy.double(3) == 6

def test_flaw():
    assert not toy
"""


def mutant(name: str, old: str, new: str, *tests: str) -> Mutant:
    """A fault of the toy."""
    return Mutant(name, function="Toy.double", old=old, new=new, harm="None.", tests=tests)


@pytest.fixture(scope="module")
def planted() -> dict[str, tuple[Place, str]]:
    """Map the name of each fault to its place and the changed text of its file."""
    return {}


@pytest.mark.parametrize("one", MUTANTS, ids=lambda one: one.name)
def test_each_fault_can_be_planted(one: Mutant, planted: dict[str, tuple[Place, str]]) -> None:
    """Each fault's function is there, its old code is in it once, and the new one is Python."""
    place, text = planted[one.name] = one.applied(PACKAGE)
    assert place.file.read_text() != text


def test_names_are_unique() -> None:
    """No two faults have the same name, whatever file they are listed in."""
    names = [one.name for one in MUTANTS]
    assert len(set(names)) == len(names)


def test_no_fault_is_there_twice(planted: dict[str, tuple[Place, str]]) -> None:
    """No two faults are the same change."""
    changes: dict[tuple[Path, str], list[str]] = {}
    for name, (place, text) in planted.items():
        changes.setdefault((place.file, text), []).append(name)
    assert not [names for names in changes.values() if len(names) > 1]


@pytest.mark.parametrize("name", sorted({name for one in MUTANTS for name in one.tests}))
def test_named_tests_exist(name: str) -> None:
    """The tests that faults name are there."""
    path, _, function = name.partition("::")
    assert (ROOT / path).exists()
    assert not function or f"def {function}" in (ROOT / path).read_text()


def test_each_harm_is_a_sentence() -> None:
    """Each fault states its harm to a user in one sentence."""
    assert not [one.name for one in MUTANTS if not one.harm.endswith(".") or "\n" in one.harm]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("gone", "here", "its old code is 0 times in toy.Toy.double"),
        ("number", "numeral", "its old code is 2 times in toy.Toy.double"),
        ("# A sum is a product.", "pass", "its old code is 0 times"),
        ("return number", "return number", "it changes nothing"),
        ("return number", "return (number)", "it changes nothing"),
        ("return number", "retrun number", "it makes toy.Toy.double unreadable"),
    ],
    ids=["absent", "ambiguous", "comment", "unchanged", "equal", "unreadable"],
)
def test_a_fault_that_does_not_fit(tmp_path: Path, old: str, new: str, why: str) -> None:
    """A fault whose old code is not there once, or whose new code is no other, is an error."""
    text = TOY.replace("number + number", "number").replace("if not number:", "if False:")
    (tmp_path / "toy.py").write_text(text)
    with pytest.raises(OutOfDateError, match=f"^misfit: {re.escape(why)}"):
        mutant("misfit", old, new).applied(tmp_path)


@pytest.mark.parametrize(
    ("function", "where"),
    [("Toy.triple", "nowhere"), ("double", "toy.Toy.double, toy.double")],
    ids=["absent", "ambiguous"],
)
def test_a_function_that_does_not_fit(tmp_path: Path, function: str, where: str) -> None:
    """A fault whose function is not defined exactly once is an error that says where it is."""
    (tmp_path / "toy.py").write_text(TOY)
    misfit = attrs.evolve(mutant("misfit", "number", "3"), function=function)
    with pytest.raises(OutOfDateError, match=f"^misfit: {function} is defined {where}$"):
        misfit.applied(tmp_path)


@pytest.mark.parametrize(
    ("function", "old", "new", "becomes"),
    [
        ("Toy.double", "return number+number", "return 7", "        return 7\n"),
        ("toy.Toy.double", "number + number", "number", "return number\n"),
        ("toy.double", "Toy.double(number,)", "0", "return 0\n"),
        ("FACTOR", "2", "3", "FACTOR = 3\n"),
        ("Toy.double", "@staticmethod", "", "    \n    def double"),
        (
            "Toy",
            "if not number: return 0",
            "if number:\n  return 1",
            "if number:\n          return 1\n",
        ),
        ("Toy.double", "return 0", "    number = 1\n    pass", "number = 1\n            pass\n"),
    ],
)
def test_a_fault_that_fits(tmp_path: Path, function: str, old: str, new: str, becomes: str) -> None:
    """The layout of the old code does not matter, and the new code is indented as it must be."""
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "toy.py").write_text(TOY)
    fault = attrs.evolve(mutant("fault", old, new), function=function)
    _, text = fault.applied(tmp_path)
    assert becomes in text
    fault.plant(tmp_path)
    assert (tmp_path / "deeper" / "toy.py").read_text() == text


def test_faults_are_chosen_by_name() -> None:
    """Names choose faults, no name chooses all, and an unknown one is an error."""
    first, second, *_ = MUTANTS
    assert choose(MUTANTS, []) == MUTANTS
    assert choose(MUTANTS, [second.name, first.name]) == [second, first]
    with pytest.raises(OutOfDateError, match="no such fault: unheard-of"):
        choose(MUTANTS, [first.name, "unheard-of"])


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """A runner for a project of one function, whose tests need no plugins."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    root = tmp_path
    (root / "src").mkdir()
    (root / "src" / "toy.py").write_text(TOY)
    (root / "test_toy.py").write_text(TOY_TESTS)
    return Runner(root=root, package=".", rest=["test_toy.py::test_double"], limit=3, jobs=2)


@pytest.mark.real
async def test_what_becomes_of_faults(toy: Runner) -> None:
    """Faults are caught by a test or by a hang, survive, or cannot be tried; each is told."""
    nothing, double = "test_toy.py::test_nothing", "test_toy.py::test_double"
    faults = [
        mutant("equivalent", "return 0", "return 0 * 1", nothing),
        mutant("caught-by-the-rest", "+", "*", nothing),
        mutant("endless", "if not number:", "while number:\n    pass\nif not number:", double),
        mutant("broken", "@staticmethod", "@undefined", double),
        mutant("misfit", "difference", "product", double),
    ]
    told: list[Outcome] = []
    outcomes = await toy.run(faults, told.append)
    assert outcomes == told
    by_name = {outcome.mutant.name: outcome for outcome in outcomes}
    assert {name for name, outcome in by_name.items() if outcome.survives} == {"equivalent"}
    assert by_name["caught-by-the-rest"].caught_by == double
    assert not by_name["caught-by-the-rest"].hung
    assert by_name["endless"].caught_by == double
    assert by_name["endless"].hung
    assert "NameError" in (by_name["broken"].problem or "")
    assert by_name["misfit"].problem == "misfit: its old code is 0 times in toy.Toy.double"


@pytest.mark.real
async def test_a_test_that_always_fails_catches_nothing(toy: Runner) -> None:
    """A test that fails without any fault too is an error, not a catcher."""
    faults = [mutant("caught", "+", "*", "test_toy.py::test_flaw")]
    with pytest.raises(BrokenRunError, match=r"^test_toy\.py::test_flaw has caught a fault, but"):
        await toy.run(faults, lambda _: None)


def of(name: str, caught_by: str | None = None, problem: str | None = None) -> Outcome:
    """An outcome."""
    return Outcome(mutant(name, "", ""), 1.25, caught_by, hung=bool(caught_by), problem=problem)


@pytest.mark.parametrize(
    ("outcomes", "status", "lines"),
    [
        ([of("a", "test_a")], 0, ["hangs: test_a", "1 faults, 0 survive, 0 could"]),
        ([of("a"), of("b", "test_b")], 1, ["SURVIVES", "2 faults, 1 survive, 0", "a: None."]),
        ([of("a"), of("b", problem="odd")], 2, ["NOT TRIED: odd", "2 faults, 1 survive, 1 could"]),
    ],
    ids=["caught", "survives", "untried"],
)
def test_the_program(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    outcomes: list[Outcome],
    status: int,
    lines: list[str],
) -> None:
    """The program prints each outcome and the sum, and its status tells the worst of them."""

    async def run(self: Runner, mutants: list[Mutant], tell: object) -> list[Outcome]:
        assert callable(tell)
        assert (self.root, self.rest, mutants) == (HOME, REST, MUTANTS[:1])
        for outcome in outcomes:
            tell(outcome)
        return outcomes

    monkeypatch.setattr(Runner, "run", run)
    assert main([MUTANTS[0].name]) == status
    said = capsys.readouterr().out
    assert all(line in said for line in lines)


def test_the_program_refuses_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    """A name that no fault has is said to be unknown, and nothing is run."""
    assert main(["unheard-of"]) == 2
    assert capsys.readouterr().err == "no such fault: unheard-of\n"
