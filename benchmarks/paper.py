"""The networks behind the tables and figures of Wang and Manchester (2023), arXiv 2301.11526.

Tables and figures have the numbers of the proceedings.

Bounds: table2's hold for inputs divided by their standard deviation, and here the same bounds in pixel units are built
in. Where text and code of the authors differ, this follows the text for table2 on Tiny-ImageNet (bound 1, not 2), and
the commands of github acfr/LBDN for fig5 and fig6, where inputs are not divided. The SLL networks are those of its
authors.

The sandwich networks start as the authors' do (``init="reference"``). What differs from the authors' networks: AOL
layers are scaled along the shorter side of their weights, which is tighter than along one fixed side, and start
orthogonal; the trainable number by which their convolutions divide the image is left out; inputs are not shifted by the
mean of the data, and are scaled alike in all channels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["ATTACKED_AT", "EXPERIMENTS", "FAMILIES", "SMALLEST_STD", "WIDTHS", "Cell", "Experiment"]

SEEDS = (123, 43, 13, 7, 365)  # the paper's
ATTACKED_AT = ("l2:36/255", "l2:72/255", "l2:108/255")
# The smallest standard deviation of a channel: a bound on inputs divided by it is so much larger in pixel units.
SMALLEST_STD = {"cifar10": 0.2435, "cifar100": 0.2565, "tiny_imagenet": 0.224}
WIDTHS = {"small": "", "medium": "_medium", "large": "_large", "xlarge": "_xlarge"}
FAMILIES = {"sandwich": "sandwich_cnn", "orthogonal": "orthogonal_cnn", "AOL": "aol_cnn", "SLL": "sll_resnet"}


@dataclass(frozen=True)
class Cell:
    """One network of a table or figure.

    ``bound`` is in pixel units, None for the plain network; ``reported`` the model's name among the published rows.
    """

    data: str
    layer: str
    size: str
    bound: float | None
    epochs: int
    reported: str | None = None
    normalized_head: bool = False

    @property
    def model(self) -> str:
        """The timm name."""
        if self.normalized_head and self.layer == "sandwich":
            return "sandwich_dnn_64" if self.data == "tiny_imagenet" else "sandwich_dnn"
        return ("plain_cnn" if self.layer == "plain" else FAMILIES[self.layer]) + WIDTHS[self.size]

    @property
    def loss(self) -> Literal["cross_entropy", "multi_margin"]:
        """What it was trained by: the multi-margin loss on CIFAR-10, the cross entropy elsewhere."""
        return "multi_margin" if self.data == "cifar10" else "cross_entropy"

    @property
    def settings(self) -> dict[str, Any]:
        """Keywords of `timm.create_model` beyond those of training."""
        larger = {"pool_grid": 16} if self.data == "tiny_imagenet" and self.layer in ("AOL", "SLL") else {}
        start = {"init": "reference"} if self.layer == "sandwich" else {}
        return {**larger, **start, **({"normalized_head": True} if self.normalized_head else {})}

    @property
    def name(self) -> str:
        """Of its folder."""
        head = "-lln" if self.normalized_head else ""
        bound = "" if self.bound is None else f"-bound{self.bound:.4g}"
        return f"{self.data}-{self.model}{head}{bound}"


@dataclass(frozen=True)
class Experiment:
    """What a table or figure needs: its networks, seeds, and what is measured of each of them.

    ``slope``: the steepest slope; ``curve``: the error after each epoch; ``drawing_of``: the table with the same runs.
    """

    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    attacks: tuple[str, ...] = ()
    slope: bool = False
    curve: bool = False
    drawing_of: str | None = None


def _table2() -> Iterator[Cell]:
    """CIFAR-100 at bound 2 and Tiny-ImageNet at bound 1, both on inputs divided by their standard deviation."""
    for data, bound, sizes in (
        ("cifar100", 2.0, ("small", "medium", "large")),
        ("tiny_imagenet", 1.0, ("small", "medium")),
    ):
        for layer in FAMILIES:
            for size in sizes:
                yield Cell(data, layer, size, bound / SMALLEST_STD[data], 100, f"{layer} {size}")


def _table3() -> Iterator[Cell]:
    """Last-layer normalisation, bound 1."""
    for data in ("cifar100", "tiny_imagenet"):
        yield Cell(data, "sandwich", "small", 1.0, 400, "sandwich", normalized_head=True)
        for size in ("small", "xlarge"):
            yield Cell(data, "SLL", size, 1.0, 400, f"SLL {size}", normalized_head=True)


def _by_bound() -> Iterator[Cell]:
    """Networks of fig5."""
    for data, size, bounds in (("cifar10", "small", (1.0, 10.0, 100.0)), ("cifar100", "large", (1.0, 2.0, 4.0))):
        for bound in bounds:
            for layer in FAMILIES:
                yield Cell(data, layer, size, bound, 100)
        yield Cell(data, "plain", size, None, 100)


def _curves() -> Iterator[Cell]:
    """Networks of fig6."""
    for data, size, bound in (("cifar10", "small", 100.0), ("cifar100", "large", 10.0)):
        for layer in (*FAMILIES, "plain"):
            yield Cell(data, layer, size, None if layer == "plain" else bound, 100)


EXPERIMENTS = {
    "table2": Experiment(tuple(_table2()), SEEDS[:3], attacks=("autoattack",)),
    "table3": Experiment(tuple(_table3()), SEEDS[:3]),
    "fig5": Experiment(tuple(_by_bound()), SEEDS[:1], attacks=("autoattack",), slope=True),
    "fig6": Experiment(tuple(_curves()), SEEDS, curve=True),
    "fig7": Experiment(tuple(_table2()), SEEDS[:3], attacks=("autoattack",), drawing_of="table2"),
}
