"""Saving and loading by timm's own means is bit exact; weights of another network are refused, not adapted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from models.narrow import NarrowNet, narrow_model, narrow_models
from timm.models import save_for_hf
from timm_contract import registered_models
from torch import Tensor

MODELS = registered_models("timm_lipschitz")


def images(model: NarrowNet) -> Tensor:
    return torch.rand(2, model.in_chans, *model.img_size, generator=torch.Generator().manual_seed(0))


def assert_same(one: NarrowNet, other: NarrowNet) -> None:
    assert one.state_dict().keys() == other.state_dict().keys()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
        assert tensor.dtype == other.state_dict()[name].dtype
    assert (one.lipschitz, one.img_size, one.in_chans) == (other.lipschitz, other.img_size, other.in_chans)
    with torch.no_grad():
        assert torch.equal(one.eval()(images(one)), other.eval()(images(one)))


@pytest.mark.parametrize("name", MODELS)
def test_save_for_hf_and_local_dir(name: str, tmp_path: Path) -> None:
    settings = {"img_size": [12, 9], "in_chans": 2, "num_classes": 4}
    if not name.startswith("plain_cnn"):
        settings |= {"lipschitz": 2.5, "normalized_head": True}
    model = narrow_model(name, dtype=torch.float32, **settings)
    save_for_hf(model, str(tmp_path), model_args=settings, safe_serialization=True)
    with narrow_models():
        loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert loaded.num_classes == 4
    assert_same(loaded, model)


@pytest.mark.parametrize("name", MODELS)
def test_pretrained_cfg_overlay_with_a_file(name: str, tmp_path: Path) -> None:
    model = narrow_model(name, dtype=torch.float32)
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(model.state_dict(), file)
    with narrow_models():
        loaded = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(file)})
    assert_same(loaded, model)


def test_state_dict_holds_free_parameters_only() -> None:
    model = narrow_model("sandwich_cnn")
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
    assert {name.rpartition(".")[2] for name in model.state_dict()} == {"weight", "bias"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_chans": 1}, r"size mismatch for stages\.0\.weight"),
        ({"img_size": 16}, r"size mismatch for head\.layers\.0\.weight"),
    ],
)
@pytest.mark.parametrize("name", ["sandwich_cnn", "sandwich_dnn"])
def test_weights_of_another_input_fail_loudly(name: str, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(narrow_model(name, dtype=torch.float32).state_dict(), file)
    with narrow_models(), pytest.raises(RuntimeError, match=message):
        timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(file)}, **change)


def test_changed_channels_fail_loudly_from_local_dir_too(tmp_path: Path) -> None:
    save_for_hf(narrow_model("sandwich_cnn", dtype=torch.float32), str(tmp_path), safe_serialization=True)
    with narrow_models(), pytest.raises(RuntimeError, match=r"size mismatch for stages\.0\.weight"):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True, in_chans=1)


def test_changed_classes_keep_everything_but_the_classifier(tmp_path: Path) -> None:
    model = narrow_model("sandwich_cnn", dtype=torch.float32)
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    with narrow_models():
        loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=3)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]) != name.startswith("head.fc")
    assert loaded(images(loaded)).shape == (2, 3)
