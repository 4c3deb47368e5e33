"""Vega-Lite specifications of the charts.

They hold no figures and no text of a record: the page's script hands those to a chart as data, so nothing of a record
is ever read as an expression. Colours, fonts and the like come from the page's style sheet, by the script.
"""

from typing import Any

SLOTS = 8
"""Series that a chart tells apart, by colour, dashes and marker."""

_DASHES = ([1, 0], [8, 4], [2, 3], [10, 3, 2, 3], [14, 4], [5, 3], [1, 4], [12, 3, 2, 3, 2, 3])
_MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "triangle-right", "triangle-left")
_RADIUS = "L2 radius (pixels in [0, 1])"
_ACCURACY = "Accuracy, %"
# Points of neighbouring series stand side by side: on top of each other they would hide one another.
_DODGE = {"expr": "datum.offset"}


def accuracy_against_radius() -> dict[str, Any]:
    """Staircases of ``curves`` (slot, radius, percent), and intervals with a marker at ``points``.

    A row of ``points``: slot, radius, percent, low, high, text. The parameter ``radius`` moves a vertical line.
    """
    slots = list(range(SLOTS))
    color = {"field": "slot", "type": "nominal", "scale": {"domain": slots}, "legend": None}
    x = {"field": "radius", "type": "quantitative", "title": _RADIUS, "axis": {"tickCount": 8}}
    y = _accuracy_axis([0, 100])
    return _chart(
        description="Accuracy in percent against the L2 radius. The values are in the table after the chart.",
        params=[{"name": "radius", "value": 0}],
        layer=[
            {
                "data": {"values": [{}]},
                "mark": {"type": "rule", "strokeWidth": 1, "style": "cursor"},
                "encoding": {"x": {"datum": {"expr": "radius"}, "type": "quantitative"}},
            },
            {
                "data": {"name": "curves"},
                # Each step has the height of its right end.
                "mark": {"type": "line", "interpolate": "step-before", "strokeWidth": 2},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": color,
                    "strokeDash": {**color, "scale": {"domain": slots, "range": list(_DASHES)}},
                },
            },
            {
                "data": {"name": "points"},
                "mark": {"type": "rule", "strokeWidth": 2, "xOffset": _DODGE},
                "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": color},
            },
            {
                "data": {"name": "points"},
                "mark": {"type": "point", "size": 80, "strokeWidth": 2, "style": "marker", "xOffset": _DODGE},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": color,
                    "shape": {**color, "scale": {"domain": slots, "range": list(_MARKERS)}},
                    **_described_by_text(),
                },
            },
        ],
    )


def accuracy_against(title: str, domain: tuple[float, float]) -> dict[str, Any]:
    """Scatter of ``models``: name, x, percent, low, high, text; on a logarithmic axis of that title and domain."""
    scale = {"type": "log", "domain": list(domain), "nice": False}
    x = {"field": "x", "type": "quantitative", "title": title, "scale": scale}
    x["axis"] = {"format": "~s", "tickCount": 5, "grid": False}
    right = f"datum.x > {(domain[0] * domain[1]) ** 0.5!r}"  # in the right half a name stands on the left
    y = {**_accuracy_axis(None), "scale": {"zero": False, "nice": True, "padding": 8}}
    return _chart(
        description=f"{title} and accuracy of each model. The values are in the table above.",
        data={"name": "models"},
        layer=[
            {
                "mark": {"type": "rule", "strokeWidth": 2, "style": "interval"},
                "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}},
            },
            {
                "mark": {"type": "point", "size": 90, "strokeWidth": 2, "style": "marker"},
                "encoding": {"x": x, "y": y, **_described_by_text()},
            },
            {
                "mark": {
                    "type": "text",
                    "align": {"expr": f"{right} ? 'right' : 'left'"},
                    "dx": {"expr": f"{right} ? -9 : 9"},
                    "limit": 150,
                    "style": "name",
                },
                "encoding": {"x": x, "y": y, "text": {"field": "name"}},
            },
        ],
        height=300,
    )


def robust_radii() -> dict[str, Any]:
    """A vertical line for each image of ``images``: place, lower, upper, open (0 or 1), text.

    Where no adversarial example was found, ``open`` is 1, ``upper`` the end of the axis, and the line is faint.
    """
    x: dict[str, Any] = {
        "field": "place",
        "type": "quantitative",
        "title": "Attacked images, by certified radius",
        "axis": {"labels": False, "ticks": False, "grid": False},
    }
    y = {"field": "lower", "type": "quantitative", "title": _RADIUS}
    line = {"x": x, "y": y, "y2": {"field": "upper"}}
    known, unknown = ([{"filter": {"field": "open", "equal": value}}] for value in (0, 1))
    return _chart(
        description="By attacked image, the certified radius and the distance of the closest adversarial example.",
        data={"name": "images"},
        layer=[
            {"transform": unknown, "mark": {"type": "rule", "strokeWidth": 1, "style": "open"}, "encoding": line},
            {"transform": known, "mark": {"type": "rule", "strokeWidth": 1.5, "style": "interval"}, "encoding": line},
            {
                "mark": {"type": "point", "shape": "circle", "size": 14, "style": "bound", "filled": True},
                "encoding": {"x": x, "y": y, **_described_by_text()},
            },
            {
                "transform": known,
                "mark": {"type": "point", "shape": "triangle-down", "size": 20, "style": "found", "filled": True},
                "encoding": {"x": x, "y": {**y, "field": "upper"}, **_described_by_text()},
            },
        ],
    )


def _chart(description: str, height: int = 360, **parts: Any) -> dict[str, Any]:
    return {
        "description": description,
        "width": "container",
        "height": height,
        "autosize": {"type": "fit", "contains": "padding"},
        **parts,
    }


def _accuracy_axis(domain: list[int] | None) -> dict[str, Any]:
    axis: dict[str, Any] = {"field": "percent", "type": "quantitative", "title": _ACCURACY}
    return axis if domain is None else {**axis, "scale": {"domain": domain}}


def _described_by_text() -> dict[str, Any]:
    return {
        "tooltip": {"field": "text", "type": "nominal"},
        "description": {"field": "text", "type": "nominal"},
    }
