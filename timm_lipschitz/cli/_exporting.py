"""Folded networks as bytes of the formats that others read."""

import hashlib
import io
import json
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from ..folding import FoldedNetwork

__all__ = ["OPSET", "onnx_bytes", "onnx_deviation", "program_bytes", "weights_files"]

OPSET = 18
"""The oldest operator set that PyTorch's exporter writes without converting."""


def _example(folded: "FoldedNetwork", count: int) -> "torch.Tensor":
    import torch

    weight = next(folded.parameters())
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, *folded.in_shape, generator=generator, dtype=torch.float64).to(weight.dtype)


def program_bytes(folded: "FoldedNetwork") -> bytes:
    """The network as a program of `torch.export`, for any number of images: ``torch.export.load(file).module()``."""
    import torch

    batch = {"x": {0: torch.export.Dim("batch")}}
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(folded, (_example(folded, 2),), dynamic_shapes=batch), buffer)
    return buffer.getvalue()


def weights_files(folded: "FoldedNetwork", model: str) -> dict[str, bytes]:
    """Weights as safetensors, what runs them, and a description, by file name; ``model`` goes into the description."""
    import safetensors.torch

    weights = safetensors.torch.save({name: value.contiguous() for name, value in folded.state_dict().items()})
    description = {
        "model": model,
        "lipschitz": folded.lipschitz,
        "in_shape": list(folded.in_shape),
        "num_classes": folded.num_classes,
        "layers": [f"{type(layer).__name__}({layer.extra_repr()})" for layer in folded.layers],
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    return {
        "weights.safetensors": weights,
        "network.pt2": program_bytes(folded),
        "network.json": (json.dumps(description, indent=2, allow_nan=False) + "\n").encode(),
    }


def onnx_bytes(folded: "FoldedNetwork") -> bytes:
    """The network in ONNX, ``images`` (batch, C, H, W) -> ``logits`` (batch, K), for any number of images.

    Raises `InvalidInputError` where the packages that write ONNX are missing.
    """
    import torch

    from ..errors import InvalidInputError

    try:
        import onnxscript  # noqa: F401 (what torch.onnx writes with)
    except ImportError as error:
        raise InvalidInputError(
            f"{error.name} is not installed; pip install 'timm_lipschitz[onnx]' brings what ONNX needs"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own deprecations
        program = torch.onnx.export(
            folded,
            (_example(folded, 2),),
            input_names=["images"],
            output_names=["logits"],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    assert program is not None
    return program.model_proto.SerializeToString()


def onnx_deviation(stored: bytes, folded: "FoldedNetwork") -> float:
    """How far ONNX Runtime's logits lie from the network's on random images, relative to the largest logit."""
    import onnxruntime
    import torch

    x = _example(folded, 5)
    session = onnxruntime.InferenceSession(stored, providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"images": x.numpy()})[0])
    with torch.no_grad():
        expected = folded(x)
    return float((found - expected).abs().max() / expected.abs().max())
