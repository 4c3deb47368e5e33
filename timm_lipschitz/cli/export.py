"""``timm-lipschitz export``: a model in a form that others can use without this package."""

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ._options import ModelArgument, SeedOption

__all__ = ["export"]

export = typer.Typer(
    name="export",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="""Write a model in a form that others can use without this package.

    Examples:
      timm-lipschitz export certificate sandwich_mlp.mnist --out runs/proof
    """,
)


class StoredType(StrEnum):
    """What the exported weights are rounded to."""

    float32 = "float32"
    float64 = "float64"


OutOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write to.", show_default=False)]


@export.command()
def certificate(
    model: ModelArgument,
    out: OutOption,
    dtype: Annotated[
        StoredType, typer.Option("--dtype", help="What the folded weights are rounded to before the proof.")
    ] = StoredType.float64,
    seed: SeedOption = 0,
) -> None:
    r"""Write a network, its multipliers and a checker that proves its bound with numpy alone.

    The matrix inequality of LipSDP is proved for the folded weights in floating
    point, every rounding bounded, and the proved bound is what the certificate
    claims. Convolutions become matrices: for networks of small images.

    Examples:
      timm-lipschitz export certificate sandwich_mlp.mnist --out runs/proof
      python runs/proof/check_certificate.py
    """
    import torch

    from ..certification import sdp
    from ..records import check_writable
    from ._command_line import print_next
    from ._results import print_facts
    from ._subjects import load_subject

    check_writable(out)
    network = load_subject(model, None, seed).model
    found = sdp.sdp_certificate(network, dtype=getattr(torch, dtype.value))
    nominal = float(network.lipschitz)  # type: ignore[arg-type]
    sdp.write_bundle(found, out, model=model, nominal_lipschitz=nominal)
    print_facts(
        [
            ("proved", f"Lipschitz constant <= {sdp.decimal_up(found.lipschitz)}, pixels to logits, L2"),
            ("nominal", f"{nominal:g}"),
            ("network", "-".join(map(str, found.widths))),
            ("written to", str(out)),
        ]
    )
    print_next([f"python {shlex.quote(str(out / 'check_certificate.py'))}"])
