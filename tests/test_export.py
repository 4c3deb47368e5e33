"""Folded networks of every family, exported for any number of images: `torch.export`, ONNX, and a compiled one."""

from __future__ import annotations

import io

import pytest
import torch
from models.narrow import narrow_model
from torch import Tensor

from timm_lipschitz import fold
from timm_lipschitz.cli._exporting import OPSET, onnx_bytes, onnx_deviation, program_bytes
from timm_lipschitz.folding import FoldedNetwork

FAMILIES = ["sandwich_cnn", "sandwich_mlp", "sandwich_dnn", "sandwich_bcop_cnn"]


def folded_network(name: str, size: tuple[int, int]) -> FoldedNetwork:
    return fold(narrow_model(name, in_chans=2, img_size=size, num_classes=5).float())


def images(folded: FoldedNetwork, count: int) -> Tensor:
    return torch.rand(count, *folded.in_shape, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("size", [(12, 16), (13, 19)])
@pytest.mark.parametrize("name", FAMILIES)
def test_exported_program_takes_any_number_of_images(name: str, size: tuple[int, int]) -> None:
    folded = folded_network(name, size)
    program = torch.export.load(io.BytesIO(program_bytes(folded))).module()
    for count in (1, 2, 33, 70):
        x = images(folded, count)
        torch.testing.assert_close(program(x), folded(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_onnx(name: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    onnx = pytest.importorskip("onnx", reason="needs the extra [onnx]")
    folded = folded_network(name, (12, 16))
    stored = onnx_bytes(folded)
    proto = onnx.load_from_string(stored)
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", OPSET)]
    assert onnx_deviation(stored, folded) < 1e-6
    session = onnxruntime.InferenceSession(stored)
    for count in (1, 70):
        x = images(folded, count)
        (logits,) = session.run(None, {"images": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), folded(x), rtol=1e-5, atol=1e-6)
    other = folded_network(name, (12, 16))
    with torch.no_grad():
        other.layers[-1].bias += 1
    assert onnx_deviation(stored, other) > 1e-2


@pytest.mark.parametrize("name", FAMILIES)
def test_compiled(name: str) -> None:
    folded = folded_network(name, (12, 16))
    torch._dynamo.reset()
    x = images(folded, 70)
    compiled = torch.compile(folded, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), folded(x), rtol=1e-5, atol=1e-6)
