"""Plots as SVG: panels side by side, the same bytes every time."""

import io
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

__all__ = ["svg"]

Panel = TypeVar("Panel")


def svg(panels: Sequence[Panel], draw: Callable[[Any, Panel], None]) -> bytes:
    """``draw(axes, panel)`` of each panel, each with a legend, side by side."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "timm-lipschitz", "svg.fonttype": "none"}):
        figure = Figure(figsize=(7 * len(panels), 4), layout="constrained")
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            draw(axes, panel)
            axes.legend()
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
