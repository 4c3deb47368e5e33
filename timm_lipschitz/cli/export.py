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
      timm-lipschitz export weights sandwich_cnn.mnist --out runs/weights
      timm-lipschitz export onnx sandwich_cnn.mnist --out runs/onnx
      timm-lipschitz export certificate sandwich_mlp.mnist --out runs/proof
    """,
)


# Between the logits of ONNX Runtime and those of PyTorch, relative to the largest: both round in float32.
LARGEST_DEVIATION = 1e-5


class StoredType(StrEnum):
    """What the exported weights are rounded to."""

    float32 = "float32"
    float64 = "float64"


OutOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write to.", show_default=False)]


@export.command()
def weights(
    model: ModelArgument,
    out: OutOption,
    dtype: Annotated[
        StoredType, typer.Option("--dtype", help="What the folded weights are rounded to.")
    ] = StoredType.float32,
    seed: SeedOption = 0,
) -> None:
    r"""Write the folded network: explicit weights, and a program that runs them.

    weights.safetensors holds the matrices between the activations, network.json
    says what each layer is, and network.pt2 is the whole network for
    torch.export.load, which needs PyTorch alone. They carry the function,
    not its certificate: certify the model itself, or export a certificate.

    Examples:
      timm-lipschitz export weights sandwich_cnn.mnist --out runs/weights
    """
    import torch

    from ..folding import fold
    from ..records import check_writable, write_all_atomic
    from ._exporting import weights_files
    from ._results import print_facts
    from ._subjects import load_subject

    check_writable(out)
    network = load_subject(model, None, seed).model
    folded = fold(network.to(getattr(torch, dtype.value)))
    files = weights_files(folded, model)
    write_all_atomic({out / name: data for name, data in files.items()})
    print_facts(
        [
            ("network", f"{tuple(folded.in_shape)} images to {folded.num_classes} logits"),
            ("weights", f"{sum(p.numel() for p in folded.parameters()):,} in {dtype.value}"),
            ("nominal", f"{folded.lipschitz:g}"),
            ("written to", str(out)),
        ]
    )


@export.command()
def onnx(model: ModelArgument, out: OutOption, seed: SeedOption = 0) -> None:
    r"""Write the folded network in ONNX, and compare it with ONNX Runtime.

    model.onnx takes images (batch, channels, height, width) in [0, 1], any
    number of them, and gives logits, in float32. It carries the function,
    not its certificate.

    Examples:
      timm-lipschitz export onnx sandwich_cnn.mnist --out runs/onnx
    """
    from ..errors import CheckpointError
    from ..folding import fold
    from ..records import check_writable, write_all_atomic
    from ._exporting import OPSET, onnx_bytes, onnx_deviation
    from ._results import print_facts
    from ._subjects import load_subject

    check_writable(out)
    folded = fold(load_subject(model, None, seed).model.float())
    stored = onnx_bytes(folded)
    deviation = onnx_deviation(stored, folded)
    if not deviation <= LARGEST_DEVIATION:
        raise CheckpointError(
            f"ONNX Runtime's logits differ from the network's by {deviation:.3g} of the largest one, more than "
            f"{LARGEST_DEVIATION:g}: nothing was written; try other versions of onnx and onnxscript"
        )
    write_all_atomic({out / "model.onnx": stored})
    print_facts(
        [
            ("network", f"{tuple(folded.in_shape)} images to {folded.num_classes} logits, operator set {OPSET}"),
            ("nominal", f"{folded.lipschitz:g}"),
            ("deviation", f"{deviation:.2g} of the largest logit, in ONNX Runtime"),
            ("written to", str(out / "model.onnx")),
        ]
    )


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
