"""`load_model`: what a specification may name, and every way in which weights are refused."""

from __future__ import annotations

import json
import pickle
import re
import struct
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from models.narrow import narrow_model, narrow_models
from timm.models import save_for_hf
from torch import nn

from timm_lipschitz.errors import CheckpointError, InvalidInputError
from timm_lipschitz.models import load_model
from timm_lipschitz.models.loading import (
    SUMS_FILE,
    file_sha256,
    read_metadata,
    verify_weights,
    weights_sha256,
)

SETTINGS = {"img_size": [8, 6], "in_chans": 1, "num_classes": 4, "lipschitz": 0.5}


@pytest.fixture(autouse=True)
def narrow() -> Iterator[None]:
    with narrow_models():
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What training writes: configuration, weights with metadata, and their hash."""
    model = narrow_model("sandwich_cnn", dtype=torch.float32, **SETTINGS)
    save_for_hf(model, str(tmp_path), model_args=SETTINGS, safe_serialization=True)
    save(tmp_path, model.state_dict())
    return tmp_path


def save(folder: Path, tensors: dict[str, torch.Tensor], hashed: bool = True) -> None:
    weights = folder / "model.safetensors"
    safetensors.torch.save_file(tensors, weights, metadata={"format": "pt", "recipe": "{}"})
    if hashed:
        (folder / SUMS_FILE).write_text(f"{file_sha256(weights)}  {weights.name}\n")


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load_model(f"local-dir:{folder}")
    return str(error.value)


def test_a_folder_that_training_wrote(folder: Path) -> None:
    expected = narrow_model("sandwich_cnn", dtype=torch.float32, **SETTINGS)
    loaded = load_model(f"local-dir:{folder}")
    assert weights_sha256(loaded.model) == weights_sha256(expected)
    assert not loaded.model.training
    assert loaded.model.lipschitz == 0.5
    assert (loaded.name, loaded.family) == (f"local-dir:{folder}", "sandwich_cnn")
    assert loaded.metadata == {"format": "pt", "recipe": "{}"}


def test_a_timm_name_is_built_anew_with_its_arguments() -> None:
    loaded = load_model("sandwich_cnn", img_size=8, in_chans=1, num_classes=3)
    assert (loaded.model.img_size, loaded.model.in_chans, loaded.model.num_classes) == ((8, 8), 1, 3)
    assert not loaded.model.training
    assert (loaded.name, loaded.family, loaded.metadata) == ("sandwich_cnn", "sandwich_cnn", {})


def test_a_tag_with_weights_is_verified_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = narrow_model("sandwich_mlp", dtype=torch.float32)
    save(tmp_path, model.state_dict())
    config = timm.models.get_pretrained_cfg("sandwich_mlp.mnist")
    config.file = str(tmp_path / "model.safetensors")
    monkeypatch.setitem(timm.models._registry._model_pretrained_cfgs, "sandwich_mlp.mnist", config)
    monkeypatch.setattr(timm.models._registry, "_model_has_pretrained", {"sandwich_mlp.mnist"})
    loaded = load_model("sandwich_mlp.mnist", num_classes=3)  # trained weights keep their classes
    assert weights_sha256(loaded.model) == weights_sha256(model)
    assert loaded.metadata["recipe"] == "{}"

    flip_bit(tmp_path / "model.safetensors", -1)
    with pytest.raises(CheckpointError, match="is damaged: its SHA-256 is"):
        load_model("sandwich_mlp.mnist")
    Path(config.file).unlink()
    with pytest.raises(CheckpointError, match=rf"is missing, though .*{SUMS_FILE} lists it"):
        load_model("sandwich_mlp.mnist")
    (tmp_path / SUMS_FILE).unlink()
    with pytest.raises(CheckpointError, match="is not a readable safetensors file"):
        load_model("sandwich_mlp.mnist")


# Damaged files


def flip_bit(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("position", [0, 9, -1, -1000])
def test_one_flipped_bit_is_refused_by_the_hash(folder: Path, position: int) -> None:
    expected = file_sha256(folder / "model.safetensors")
    flip_bit(folder / "model.safetensors", position)
    message = refusal(folder)
    assert "is damaged: its SHA-256 is" in message
    assert expected in message
    assert file_sha256(folder / "model.safetensors") in message


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
@pytest.mark.parametrize("hashed", [True, False])
def test_truncated_weights_are_refused_with_and_without_a_hash(folder: Path, kept: int, hashed: bool) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    if not hashed:
        (folder / SUMS_FILE).unlink()
    assert ("is damaged" if hashed else "is not a readable safetensors file") in refusal(folder)


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<Q", 2**62),  # a length that no memory holds
        struct.pack("<Q", 200_000_000) + b"{}",  # longer than the file, and than what the format allows
        struct.pack("<Q", 10_000) + b"{}",
        struct.pack("<Q", 2) + b"{}" + b"\0" * 64,  # bytes that no tensor claims
        struct.pack("<Q", 7) + b"not json",
    ],
)
def test_giant_and_lying_headers_are_refused_before_anything_is_allocated(folder: Path, header: bytes) -> None:
    (folder / "model.safetensors").write_bytes(header)
    (folder / SUMS_FILE).unlink()
    assert "is not a readable safetensors file" in refusal(folder)


def test_tensor_that_claims_more_than_the_file_holds_is_refused(folder: Path) -> None:
    lie = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(lie)) + lie + b"\0" * 64)
    (folder / SUMS_FILE).unlink()
    assert "is not a readable safetensors file" in refusal(folder)


class Canary:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, "executed"))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.pth", "weights.pkl"])
@pytest.mark.parametrize("by_torch", [True, False])
def test_a_pickle_is_refused_unexecuted(folder: Path, tmp_path: Path, name: str, by_torch: bool) -> None:
    canary = tmp_path / "canary"
    (folder / "model.safetensors").unlink()
    (folder / SUMS_FILE).unlink()
    if by_torch:
        torch.save({"stages.0.weight": Canary(canary)}, folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(Canary(canary)))
    message = refusal(folder)
    assert not canary.exists()
    assert name in message
    assert ("is not a readable safetensors file" if name == "model.safetensors" else "would be unpickled") in message
    if not by_torch:  # the payload does bite
        pickle.loads((folder / name).read_bytes())  # noqa: S301
        assert canary.read_text() == "executed"


# Hashes


@pytest.mark.parametrize(
    "sums", ["", "\n", "no-hash-here\n", "ab cd ef", "0" * 64 + "  other.safetensors\n", "\xff\xfe"]
)
def test_a_damaged_list_of_hashes_is_refused(folder: Path, sums: str) -> None:
    (folder / SUMS_FILE).write_text(sums, encoding="latin-1")
    assert "does not list model.safetensors" in refusal(folder)


def test_hashes_as_sha256sum_writes_them(folder: Path) -> None:
    weights = folder / "model.safetensors"
    (folder / SUMS_FILE).write_text(f"{'0' * 64}  other\n\n{file_sha256(weights).upper()} *{weights.name}\n")
    verify_weights(weights)
    flip_bit(weights, -1)
    with pytest.raises(CheckpointError, match="is damaged"):
        verify_weights(weights)


def test_without_a_list_of_hashes_nothing_is_compared(folder: Path) -> None:
    (folder / SUMS_FILE).unlink()
    load_model(f"local-dir:{folder}")


def test_file_hash_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_weights_hash_sees_names_types_shapes_and_values() -> None:
    class Net(nn.Module):
        def __init__(self, name: str, value: torch.Tensor) -> None:
            super().__init__()
            self.register_buffer(name, value)

    values = [torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32), torch.tensor([0, 0, 0, 1e-45])]
    hashes = [weights_sha256(Net("a", value)) for value in values] + [weights_sha256(Net("b", values[0]))]
    assert len(set(hashes)) == 5
    assert weights_sha256(Net("a", torch.zeros(4, 2).T[0])) == hashes[0]  # strides are no content
    assert weights_sha256(Net("a", torch.zeros((), dtype=torch.bfloat16))) not in hashes


# Weights that do not fit


def test_missing_unexpected_and_misshaped_weights_are_listed(folder: Path) -> None:
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    del tensors["stages.1.bias"]
    save(folder, tensors)
    assert re.search(r"Missing key\(s\).*stages\.1\.bias", refusal(folder), re.DOTALL)
    save(folder, {**tensors, "stages.1.bias": torch.zeros(2), "stages.9.bias": torch.zeros(2)})
    assert re.search(r"Unexpected key\(s\).*stages\.9\.bias", refusal(folder), re.DOTALL)
    save(folder, {**tensors, "stages.1.bias": torch.zeros(5)})
    assert re.search(r"size mismatch for stages\.1\.bias", refusal(folder), re.DOTALL)


@pytest.mark.parametrize("key", ["num_classes", "pretrained num_classes"])
def test_a_configuration_that_contradicts_itself_does_not_leave_a_random_classifier(folder: Path, key: str) -> None:
    """timm then drops the stored classifier, and loads the rest without a word."""
    config = json.loads((folder / "config.json").read_text())
    if key == "num_classes":
        config["num_classes"] = 7
    else:
        config.pop("num_classes")
        config["pretrained_cfg"]["num_classes"] = 7
    (folder / "config.json").write_text(json.dumps(config))
    expected = narrow_model("sandwich_cnn", dtype=torch.float32, **SETTINGS)
    assert weights_sha256(load_model(f"local-dir:{folder}").model) == weights_sha256(expected)


@pytest.mark.parametrize("change", [{"in_chans": 2}, {"num_classes": 5}, {"img_size": [16, 8]}])
def test_a_configuration_for_other_weights_is_refused(folder: Path, change: dict[str, Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model_args"].update(change)
    (folder / "config.json").write_text(json.dumps(config))
    assert "size mismatch for " in refusal(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is missing or damaged"),
        ("[]", "is missing or damaged"),
        ('{"num_classes": 4}', "is missing or damaged"),
        ('{"architecture": "no_such_net"}', "no_such_net"),
        ('{"architecture": 7}', "'7'|7"),
        ('{"architecture": "sandwich_cnn", "pretrained_cfg": {}, "model_args": {"lipschitz": -1}}', "must be positive"),
        ('{"architecture": "sandwich_cnn", "pretrained_cfg": {}, "model_args": {"no_such": 1}}', "no_such"),
        ('{"architecture": "sandwich_cnn", "pretrained_cfg": {}, "model_args": 3}', "do not fit"),
        ('{"architecture": "sandwich_cnn", "pretrained_cfg": {"no_such": 1}}', "no_such"),
    ],
)
def test_a_damaged_configuration_is_refused(folder: Path, content: str, message: str) -> None:
    (folder / "config.json").write_text(content)
    assert re.search(message, refusal(folder))


def test_missing_folder_weights_and_configuration(folder: Path) -> None:
    assert "is not a folder; give local-dir:" in refusal(folder / "nothing")
    (folder / "config.json").unlink()
    assert "config.json is missing or damaged" in refusal(folder)
    (folder / "model.safetensors").unlink()
    assert "model.safetensors is missing" in refusal(folder)


# Other specifications


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sandwich_cmn", r"no model is called 'sandwich_cmn'; did you mean one of .*sandwich_cnn"),
        ("zzzz", "no model is called 'zzzz'$"),
        ("", "no model is called ''"),
        ("sandwich_cnn.no_such_tag", r"has no such tag; there are .*sandwich_cnn\.mnist"),
        ("no_such_module:build", "no_such_module"),
        ("json:no_such_function", "no_such_function"),
        (":build", "module:function"),
        ("json:__name__", "is a str, not a function"),
        ("json:JSONDecoder", "returned JSONDecoder, not a torch.nn.Module"),
    ],
)
def test_a_specification_that_names_nothing(spec: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        load_model(spec)


def test_a_function_that_returns_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("a_module_of_theirs")
    module.build = lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4)).train()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_module_of_theirs", module)
    loaded = load_model("a_module_of_theirs:build")
    assert not loaded.model[1].training
    assert (loaded.name, loaded.family, loaded.metadata) == ("a_module_of_theirs:build", "Sequential", {})


def test_without_network_a_hub_model_is_refused_with_a_way_out() -> None:
    with pytest.raises(CheckpointError, match=r"'hf-hub:nobody/nothing' could not be loaded .*give local-dir:FOLDER"):
        load_model("hf-hub:nobody/nothing")


def test_metadata_of_a_file_without_any(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    assert read_metadata(tmp_path / "a.safetensors") == {}
