"""Figures 5 to 7 of Wang and Manchester (2023), drawn from the networks of a record of `reproduce.py`.

Lines join the medians over the seeds, bars and bands go from the lowest to the highest. What a paper reported is
hollow and dashed, and the legend says so.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.drawing import svg

__all__ = ["FIGURES"]

Network = dict[str, Any]


def over_slopes(networks: Sequence[Network]) -> bytes:
    """fig5: accuracy over the steepest slope found, a panel for clean images and for each attack, a line a layer."""

    def draw(axes: Any, figure: str) -> None:
        for layer, chosen in _by_layer(networks):
            slopes = [_median([run["slope"]["found"] for run in network["runs"]]) for network in chosen]
            _line(axes, layer, slopes, [_accuracy(network, figure) for network in chosen])
        axes.set(xscale="log", xlabel="steepest slope found", ylabel="accuracy, %", title=figure)

    return svg(_figures(networks), draw)


def over_epochs(networks: Sequence[Network]) -> bytes:
    """fig6: error on the validation images after each epoch, one panel, a line a layer."""

    def draw(axes: Any, chosen: Sequence[Network]) -> None:
        for network in chosen:
            epochs = [at["epoch"] + 1 for at in network["curve"]]
            errors = {name: [100 * at["error"][name] for at in network["curve"]] for name in ("median", "min", "max")}
            (line,) = axes.plot(epochs, errors["median"], marker=".", label=network["layer"])
            axes.fill_between(epochs, errors["min"], errors["max"], color=line.get_color(), alpha=0.2, linewidth=0)
        axes.set(xlabel="epoch", ylabel="error on validation images, %")

    return svg([networks], draw)


def over_parameters(networks: Sequence[Network]) -> bytes:
    """fig7: accuracy over the number of parameters, a panel for clean images and for each attack, a line a layer."""

    def draw(axes: Any, figure: str) -> None:
        for layer, chosen in _by_layer(networks):
            color = _line(
                axes,
                layer,
                [network["parameters"] for network in chosen],
                [_accuracy(network, figure) for network in chosen],
            )
            reported = [
                (network["parameters"], value)
                for network in chosen
                if (value := _reported(network, figure)) is not None
            ]
            if reported:
                style = {"marker": "o", "fillstyle": "none", "linestyle": "--", "color": color}
                axes.plot(*zip(*reported, strict=True), label=f"{layer}, reported", **style)
        axes.set(xscale="log", xlabel="parameters", ylabel="accuracy, %", title=figure)

    return svg(_figures(networks), draw)


FIGURES: dict[str, Callable[[Sequence[Network]], bytes]] = {
    "fig5": over_slopes,
    "fig6": over_epochs,
    "fig7": over_parameters,
}


def _figures(networks: Sequence[Network]) -> list[str]:
    attacked = list(dict.fromkeys(at for network in networks for at in network["attacked"]))
    return ["clean", *(f"attacked {at}" for at in attacked)]


def _accuracy(network: Network, figure: str) -> dict[str, float]:
    kind, _, at = figure.partition(" ")
    return network["clean"] if kind == "clean" else network[kind][at]


def _reported(network: Network, figure: str) -> float | None:
    kind, _, at = figure.partition(" ")
    row = network["reported"]
    if row is None:
        return None
    return row["clean"] if kind == "clean" else row[kind].get(at)


def _by_layer(networks: Sequence[Network]) -> Iterable[tuple[str, list[Network]]]:
    for layer in dict.fromkeys(network["layer"] for network in networks):
        yield layer, [network for network in networks if network["layer"] == layer]


def _line(axes: Any, label: str, positions: Sequence[float], accuracies: Sequence[dict[str, float]]) -> Any:
    """Draws fractions as percent, left to right; returns the line's colour."""
    order = sorted(range(len(positions)), key=lambda k: positions[k])
    points = [(positions[k], *(100 * accuracies[k][name] for name in ("median", "min", "max"))) for k in order]
    x, median, low, high = zip(*points, strict=True)
    below = [m - value for m, value in zip(median, low, strict=True)]
    above = [value - m for m, value in zip(median, high, strict=True)]
    bars = axes.errorbar(x, median, yerr=[below, above], marker="o", capsize=3, label=label)
    return bars.lines[0].get_color()


def _median(values: Sequence[float]) -> float:
    from statistics import median

    return median(values)
