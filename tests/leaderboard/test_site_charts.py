"""The charts' specifications: never above the data, nothing of a record in them, nothing loaded."""

import json

import pytest

from timm_lipschitz.leaderboard.site import charts

SPECS = {
    "radius": charts.accuracy_against_radius(3.2),
    "size": charts.accuracy_against("Parameters", (1e5, 1e7), "~s"),
    "radii": charts.robust_radii(3.0),
}


def marks(spec: dict, kind: str) -> list[dict]:
    return [layer["mark"] for layer in spec["layer"] if layer["mark"]["type"] == kind]


def test_proved_steps_have_the_height_of_their_right_end_and_bounds_from_above_of_their_left_end():
    lines = [layer for layer in SPECS["radius"]["layer"] if layer["mark"]["type"] == "line"]
    steps = {layer["transform"][0]["filter"]["equal"]: layer["mark"]["interpolate"] for layer in lines}
    assert steps == {0: "step-before", 1: "step-after"}


def test_nothing_is_said_to_screen_readers_but_words_of_the_page():
    for spec in SPECS.values():
        for layer in spec["layer"]:
            assert layer["mark"].get("aria") is False or layer["encoding"]["description"]["field"] == "text"


def test_charts_span_what_they_are_given():
    (dots, *_) = [layer for layer in SPECS["radii"]["layer"] if layer["mark"]["type"] == "point"]
    assert dots["encoding"]["y"]["scale"] == {"domain": [0, 3.0], "nice": False}
    points = next(layer for layer in SPECS["radius"]["layer"] if layer["mark"]["type"] == "point")
    assert points["encoding"]["x"]["scale"] == {"domain": [0, 3.2], "nice": False}


def test_series_differ_by_more_than_colour():
    line, points = (
        next(layer["encoding"] for layer in SPECS["radius"]["layer"] if layer["mark"]["type"] == kind)
        for kind in ("line", "point")
    )
    for scale in (line["strokeDash"]["scale"], points["shape"]["scale"]):
        assert len(scale["domain"]) == len(scale["range"]) == charts.SLOTS
        assert len({str(value) for value in scale["range"]}) == charts.SLOTS


def test_the_whole_range_of_accuracies_is_shown():
    for layer in SPECS["radius"]["layer"]:
        if layer["mark"]["type"] == "line":
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
