"""The charts' specifications: never above the data, nothing of a record in them, nothing loaded."""

import json

import pytest

from timm_lipschitz.leaderboard.site import charts

SPECS = {
    "radius": charts.accuracy_against_radius(),
    "size": charts.accuracy_against("Parameters", (1e5, 1e7)),
    "radii": charts.robust_radii(),
}


def marks(spec: dict, kind: str) -> list[dict]:
    return [layer["mark"] for layer in spec["layer"] if layer["mark"]["type"] == kind]


def test_each_step_has_the_height_of_its_right_end():
    (line,) = marks(SPECS["radius"], "line")
    assert line["interpolate"] == "step-before"


def test_series_differ_by_more_than_colour():
    line, points = (
        next(layer["encoding"] for layer in SPECS["radius"]["layer"] if layer["mark"]["type"] == kind)
        for kind in ("line", "point")
    )
    for scale in (line["strokeDash"]["scale"], points["shape"]["scale"]):
        assert len(scale["domain"]) == len(scale["range"]) == charts.SLOTS
        assert len({str(value) for value in scale["range"]}) == charts.SLOTS


def test_the_whole_range_of_accuracies_is_shown():
    (layer,) = [layer for layer in SPECS["radius"]["layer"] if layer["mark"]["type"] == "line"]
    assert layer["encoding"]["y"]["scale"] == {"domain": [0, 100]}


@pytest.mark.parametrize("name", SPECS)
def test_a_chart_gets_its_figures_from_the_page_and_has_a_description(name):
    spec = SPECS[name]
    assert spec["description"]
    assert '"url"' not in json.dumps(spec)
    assert '"href"' not in json.dumps(spec)
    sources = [part["data"] for part in (spec, *spec["layer"]) if "data" in part]
    assert sources
    assert all(set(source) == {"name"} or source == {"values": [{}]} for source in sources)
