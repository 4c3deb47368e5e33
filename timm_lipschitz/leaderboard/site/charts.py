"""Vega-Lite specifications of the charts.

They hold no figures and no text of a record: the page's script hands those to a chart as data, so nothing of a record
is ever read as an expression. Colours, fonts and the like come from the page's style sheet, by the script.

Marks that say something carry it in words, as tooltip and for screen readers; the others are hidden from these.
"""

from typing import Any

DASHES = ([1, 0], [8, 4], [2, 3], [10, 3, 2, 3], [14, 4], [5, 3], [1, 4], [12, 3, 2, 3, 2, 3])
"""Dashes of the series that a chart tells apart, beside colour and marker."""
MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "triangle-right", "triangle-left")
SLOTS = len(DASHES)

_RADIUS = "L2 radius (pixels in [0, 1])"
_ACCURACY = "Accuracy, %"
_UNHEARD = {"aria": False}


def accuracy_against_radius(end: float) -> dict[str, Any]:
    """Staircases of ``curves``, and intervals with a marker at ``points``, for radii from 0 to ``end``.

    A row of ``curves``: slot, radius, percent, upper; of ``points``: slot, radius, percent, low, high, text. Where
    ``upper`` is 1 a curve bounds the accuracy from above. The parameter ``radius`` moves a vertical line; ``emphasis``
    is the slot whose marks the others stand back for, -1 for none.
    """
    slots = list(range(SLOTS))
    color = {"field": "slot", "type": "nominal", "scale": {"domain": slots}, "legend": None}
    x = {
        "field": "radius",
        "type": "quantitative",
        "title": _RADIUS,
        "axis": {"tickCount": 8, **_UNHEARD},
        "scale": {"domain": [0, end], "nice": False},
    }
    y = _accuracy_axis([0, 100])
    stands_out = {"condition": {"test": "emphasis < 0 || datum.slot === emphasis", "value": 1}, "value": 0.12}
    seen = {"x": x, "y": y, "color": color, "opacity": stands_out}

    def staircase(upper: int, interpolate: str) -> dict[str, Any]:
        return {
            "data": {"name": "curves"},
            "transform": [{"filter": {"field": "upper", "equal": upper}}],
            "mark": {"type": "line", "interpolate": interpolate, "strokeWidth": 2, **_UNHEARD},
            "encoding": {**seen, "strokeDash": {**color, "scale": {"domain": slots, "range": list(DASHES)}}},
        }

    return _chart(
        description="Accuracy in percent against the L2 radius. The slider below the chart reads it.",
        params=[{"name": "radius", "value": 0}, {"name": "emphasis", "value": -1}],
        layer=[
            {
                "data": {"values": [{}]},
                "mark": {"type": "rule", "strokeWidth": 1, "style": "cursor", **_UNHEARD},
                "encoding": {"x": {"datum": {"expr": "radius"}, "type": "quantitative"}},
            },
            # A step has the height of its right end where the curve is proved, of its left end where it is a bound
            # from above: neither says more than is known between two radii.
            staircase(0, "step-before"),
            staircase(1, "step-after"),
            {
                "data": {"name": "points"},
                "mark": {"type": "rule", "strokeWidth": 2, **_UNHEARD},
                "encoding": {**seen, "y": {**y, "field": "low"}, "y2": {"field": "high"}},
            },
            {
                "data": {"name": "points"},
                "mark": {"type": "point", "size": 80, "strokeWidth": 2, "style": "marker"},
                "encoding": {
                    **seen,
                    "shape": {**color, "scale": {"domain": slots, "range": list(MARKERS)}},
                    **_described_by_text(),
                },
            },
        ],
    )


def accuracy_against(title: str, domain: tuple[float, float], tick_format: str) -> dict[str, Any]:
    """Scatter of ``models`` (mark, x, percent, low, high, text) on a logarithmic axis of that title and domain.

    ``mark`` is the short text beside a point.
    """
    scale = {"type": "log", "domain": list(domain), "nice": False}
    x = {"field": "x", "type": "quantitative", "title": title, "scale": scale}
    x["axis"] = {"format": tick_format, "tickCount": 5, "grid": False, **_UNHEARD}
    y = {**_accuracy_axis(None), "scale": {"zero": False, "nice": True, "padding": 8}}
    return _chart(
        description=f"{title} and accuracy of each model. The values are in the table of entries.",
        data={"name": "models"},
        layer=[
            {
                "mark": {"type": "rule", "strokeWidth": 2, "style": "interval", **_UNHEARD},
                "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}},
            },
            {
                "mark": {"type": "point", "size": 90, "strokeWidth": 2, "style": "marker"},
                "encoding": {"x": x, "y": y, **_described_by_text()},
            },
            {
                "mark": {"type": "text", "align": "left", "dx": 8, "dy": -6, "style": "name", **_UNHEARD},
                "encoding": {"x": x, "y": y, "text": {"field": "mark"}},
            },
        ],
        height=300,
    )


def robust_radii(top: float) -> dict[str, Any]:
    """A vertical line for each image of ``images``: place, lower, upper, open (0 or 1), text; radii 0 to ``top``.

    Where no adversarial example was found, ``open`` is 1, and the line is dashed and runs to the top.
    """
    x: dict[str, Any] = {
        "field": "place",
        "type": "quantitative",
        "title": "Attacked images, by certified radius",
        "axis": {"labels": False, "ticks": False, "grid": False, **_UNHEARD},
    }
    scale = {"domain": [0, top], "nice": False}
    y = {"field": "lower", "type": "quantitative", "title": _RADIUS, "scale": scale}
    line = {"x": x, "y": y, "y2": {"field": "upper"}}
    known, unknown = ([{"filter": {"field": "open", "equal": value}}] for value in (0, 1))

    def rule(width: float, style: str) -> dict[str, Any]:
        return {"type": "rule", "strokeWidth": width, "style": style, **_UNHEARD}

    return _chart(
        description="By attacked image, the certified radius and the distance of the closest adversarial example.",
        data={"name": "images"},
        layer=[
            {"transform": unknown, "mark": rule(1, "open"), "encoding": {**line, "y2": {"datum": top}}},
            {"transform": known, "mark": rule(1.5, "interval"), "encoding": line},
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
    axis: dict[str, Any] = {"field": "percent", "type": "quantitative", "title": _ACCURACY, "axis": _UNHEARD}
    return axis if domain is None else {**axis, "scale": {"domain": domain}}


def _described_by_text() -> dict[str, Any]:
    return {
        "tooltip": {"field": "text", "type": "nominal"},
        "description": {"field": "text", "type": "nominal"},
    }
