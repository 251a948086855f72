"""The models of other pools, and the page that shows them."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from . import page
from .charts import svg
from .fleet import Size
from .models import MODELS, aperture, compare, everything, in_step, moved, shuffled

SIZE = Size(100, 100)


def test_clients_in_step_use_the_same_backends() -> None:
    """In the order of the resolver, all clients use the first sixteen backends."""
    assert in_step(range(100), 3, SIZE, 0) == in_step(range(100), 7, SIZE, 5) == [*range(16)]
    assert compare("cold-start", SIZE)["qorb (in step)"]["busiest backend / mean"] == 6.25


def test_a_shuffle_a_minute_closes_nearly_everything() -> None:
    """Two random choices of 16 of 100 backends have 2.6 in common."""
    assert shuffled(range(100), 1, SIZE, 0) == shuffled(range(100), 1, SIZE, 0)
    figures = compare("doubled", SIZE)["cueball (shuffled each minute)"]
    assert 12.5 < figures["closed per client and minute, mean"] < 14.5


def test_everybody_connects_to_everything() -> None:
    """Round robin has a connection from each client to each backend."""
    assert everything(range(100), 1, SIZE, 0) == [*range(100)]
    figures = compare("cold-start", SIZE)["gRPC round_robin (everything)"]
    assert figures["connections of the busiest backend"] == 100


def test_a_fixed_part_of_a_ring_loses_what_is_lost() -> None:
    """An aperture is even, and loses a third of its connections with the backends."""
    assert aperture(range(100), 99, SIZE, 0) == [99, *range(15)]
    figures = compare("third-lost", SIZE)["Finagle (aperture)"]
    assert figures["% of the connections left"] == pytest.approx(66, abs=1)
    assert compare("cold-start", SIZE)["Finagle (aperture)"]["busiest backend / mean"] == 1


def test_models_play_some_scenarios() -> None:
    """In a scenario that needs more than places, the models have no figures."""
    assert compare("dns", SIZE) == {}
    assert {*compare("restart-all", SIZE)} == {*MODELS}
    assert moved([[1, 2], [3]], [[2, 5], [3]]) == 0.5


def test_a_chart_is_well_formed() -> None:
    """A chart is XML, with a line for each series, inside of its frame."""
    lines = {"a & b": [(0.0, 0.0), (10.0, 2.0)], "c": []}
    tree = ET.fromstring(svg({"title": "<T>", "x": "s", "y": "n", "lines": lines}))
    polylines = tree.findall("{http://www.w3.org/2000/svg}polyline")
    assert [line.get("points") for line in polylines] == ["56.0,256.0 624.0,63.6", ""]


def test_a_section_of_the_page() -> None:
    """A section has the command, the figures with their targets, and the chart."""
    figure = {"name": "a", "value": 1.5, "target": 2, "sense": "at most", "unit": "", "note": ""}
    result = {
        "scenario": "cold-start",
        "title": "Cold start",
        "text": "All start.",
        "clients": 1000,
        "backends": 10,
        "seed": 1,
        "cpu": 3.2,
        "figures": [figure | {"is_reached": True}, figure | {"is_reached": False, "note": "why"}],
        "chart": {"title": "T"},
        "others": {"in step": {"b": 2.0}},
    }
    text = "\n".join(page.section(result))
    assert "nox -s fleet -- --clients 1000 --backends 10 --scenario cold-start --seed 1" in text
    assert "| a | 1.5 | ≤ 2 | reached |" in text
    assert "| a | 1.5 | ≤ 2 (why) | **missed** |" in text
    assert "| in step | 2 |" in text
    assert "![T](fleet/cold-start.svg)" in text


def test_the_page_shows_the_results() -> None:
    """docs/fleet.md and its charts are what the results say."""
    assert page.main(["--check"]) is None


def test_a_stale_page_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check names the files that are not as in the results."""
    copy = tmp_path / "fleet.md"
    copy.write_text(page.PAGE.read_text() + page.BEGIN)
    copy.write_text(copy.read_text().replace("| figure |", "| number |"))
    monkeypatch.setattr(page, "PAGE", copy)
    assert page.main(["--check"]) == "not as in the results: fleet.md"
