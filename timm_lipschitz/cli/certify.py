"""``timm-lipschitz certify``: certified accuracy, without any attack."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._options import (
    BatchSizeOption,
    DataDirOption,
    DataOption,
    DeviceOption,
    ImageSizeOption,
    LimitOption,
    ModelArgument,
    SeedOption,
)

if TYPE_CHECKING:
    from ..certification import Certificates
    from ..data import ImageDataset
    from ..records import Figure
    from ..threat_model import ThreatModel

__all__ = ["certify"]


def certify(
    model: ModelArgument,
    data: DataOption,
    data_dir: DataDirOption = None,
    split: Annotated[
        str, typer.Option("--split", metavar="NAME", help="test, validation, train or train+validation.")
    ] = "test",
    limit: LimitOption = None,
    eps: Annotated[
        list[str] | None,
        typer.Option(
            "--eps",
            metavar="EPS",
            help="L2 radius in pixel units, such as 36/255 or 1.0; may be repeated.",
            show_default="36/255, 1.0 and the one that ranks the data set's leaderboard",
        ),
    ] = None,
    arithmetic: Annotated[
        str,
        typer.Option(
            "--arithmetic",
            metavar="NAME",
            help="What the certificates speak of: real, the network in real arithmetic; float64 or float32, the folded "
            "network as executed in that format.",
        ),
    ] = "real",
    img_size: ImageSizeOption = None,
    batch_size: BatchSizeOption = 500,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Write a soundness report, .html or .md: bounds by layer, and what a search finds of them.",
        ),
    ] = None,
) -> None:
    r"""Certify a model's predictions: no perturbation up to eps changes them, proved.

    An image counts as certified at eps if it is classified correctly and its
    certified radius is larger than eps. Radii are computed in float64, in
    pixel units (images in [0, 1]), L2, and every rounding error is counted.
    Nothing is written but the --report: evaluate writes a record.

    Examples:
      timm-lipschitz certify sandwich_cnn.mnist --data mnist
      timm-lipschitz certify sandwich_cnn.mnist --data mnist --eps 36/255 --eps 1
      timm-lipschitz certify local-dir:runs/mine --data cifar10 --data-dir DIR \
          --split validation --limit 1000
      timm-lipschitz certify sandwich_mlp.mnist --data mnist --report runs/soundness.html
    """
    from ..certification import certify as compute_certificates
    from ..certification.bounds import bound_text
    from ..certification.report import nominal_text, render_report, soundness_report
    from ..data import load_dataset
    from ..device import pick_device
    from ..errors import InvalidInputError
    from ..records import check_writable, write_all_atomic
    from ..records.statistics import thousandths_down
    from ._console import output
    from ._results import print_facts, print_figures
    from ._stages import stages
    from ._subjects import load_subject

    if report is not None:
        if report.suffix not in (".html", ".md"):
            raise InvalidInputError(f"--report {str(report)!r}: give a file that ends in .html or .md")
        check_writable(report.parent)
    balls = _balls(eps, data)
    where = pick_device(device)
    images = load_dataset(data, split, data_dir, img_size=img_size)
    images = images.subset(None if limit is None else min(limit, len(images)))
    loaded = load_subject(model, images, seed)
    network = loaded.model.to(where)
    with stages() as show:
        certificates = compute_certificates(
            network,
            images.pixels(slice(None)),
            images.labels,
            arithmetic=arithmetic,  # type: ignore[arg-type]
            batch_size=batch_size,
            progress=lambda done, total: show("certify", done, total),
        )
    output().print(f"{model} on {data}, {split} split, {len(images):,} images\n", markup=False)
    print_figures(_figures(certificates, images, balls))
    typer.echo()
    print_facts(
        [
            (
                "median radius",
                f"{thousandths_down(float(certificates.radius.median()))}, wrong predictions counted as 0",
            ),
            (
                "Lipschitz bound",
                f"nominal {nominal_text(network)}; measured {bound_text(certificates.lipschitz)}, pixels to logits",
            ),
            ("arithmetic", _statement(certificates)),
            *(
                ("asserted", f"{module}: a bound that somebody registered, not measured")
                for module in certificates.asserted
            ),
        ]
    )
    if report is not None:
        found = soundness_report(network, images.pixels(slice(0, 4)), certificates, title=model, seed=seed)
        write_all_atomic({report: render_report(found, report.suffix[1:]).encode()})
        print_facts([("report", str(report))])


def _balls(eps: list[str] | None, data: str) -> "list[ThreatModel]":
    """The L2 threat models of ``eps`` in increasing order, each once."""
    from ..leaderboard import primary_threat_model
    from ..threat_model import ThreatModel, parse_eps

    if eps:
        return sorted({ThreatModel("l2", parse_eps(text)) for text in eps})
    return sorted({ThreatModel.parse("l2:36/255"), ThreatModel.parse("l2:1.0"), primary_threat_model(data)})


def _figures(
    certificates: "Certificates", images: "ImageDataset", balls: "list[ThreatModel]"
) -> "list[tuple[str, Figure]]":
    from ..records import Figure, is_certified

    correct, radius = (certificates.margin > 0).numpy(), certificates.radius.numpy()
    figures = [("clean", Figure.of(int(correct.sum()), len(images)))]
    for ball in balls:
        proved = is_certified(correct, radius, ball, math.prod(images.image_shape))
        figures.append((f"certified at {ball}", Figure.of(int(proved.sum()), len(images))))
    return figures


def _statement(certificates: "Certificates") -> str:
    """What the certificates speak of, and the largest error that was taken off a margin."""
    from ..certification.check_certificate import decimal_up

    error = float((certificates.error + certificates.ball_error).max())
    most = decimal_up(error, 2)
    return f"{certificates.arithmetic}, rounding counted: logits differ by up to {most} more or less than computed"
