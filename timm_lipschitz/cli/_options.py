"""Options that several commands share, worded once."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

__all__ = [
    "BatchSizeOption",
    "DataDirOption",
    "DataOption",
    "DeviceOption",
    "ImageSizeOption",
    "LimitOption",
    "ModelArgument",
    "SeedOption",
]

ModelArgument: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A timm name, local-dir:DIR (what train wrote), hf-hub:ID, or module:function (gives a torch module).",
        show_default=False,
    ),
]

DataOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--data", metavar="NAME", help="The data set; `timm-lipschitz datasets` lists them.", show_default=False
    ),
]

DataDirOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="Folder with the files. MNIST's test images need none."),
]

ImageSizeOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--img-size", min=1, metavar="N", help="Scale the images to this height and width; for folders of mixed sizes."
    ),
]

LimitOption: TypeAlias = Annotated[
    int | None, typer.Option("--limit", min=1, metavar="N", help="Take the first so many images.")
]

SeedOption: TypeAlias = Annotated[
    int, typer.Option("--seed", min=0, max=2**63 - 1, metavar="N", help="Seed of all randomness there is.")
]

BatchSizeOption: TypeAlias = Annotated[
    int, typer.Option("--batch-size", min=1, metavar="N", help="Images in one batch.")
]

DeviceOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME",
        help="cpu, cuda or cuda:N; a GPU where there is one, by default.",
        show_default=False,
    ),
]
