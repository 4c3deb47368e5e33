"""A model as a repository of the hub, and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors
import timm
import torch
import yaml
from huggingface_hub import HfApi, constants
from leaderboard.hub_stand_in import TOKEN, hub
from models.narrow import narrow_model, narrow_models
from records.sample_runs import sample_run
from torch import nn

from timm_lipschitz.errors import InvalidInputError, RecordError
from timm_lipschitz.leaderboard.hub import send
from timm_lipschitz.leaderboard.model_repository import model_upload
from timm_lipschitz.models.loading import LoadedModel, load_model, weights_sha256
from timm_lipschitz.records import Run, Selection


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    torch.manual_seed(0)
    model = timm.create_model("sandwich_mlp", img_size=6, in_chans=2, num_classes=3, lipschitz=0.5).eval()
    return LoadedModel(model, "local-dir:mine", "sandwich_mlp", {"format": "pt", "recipe_name": "mine", "seed": "4"})


def run_of(loaded: LoadedModel) -> Run:
    run = sample_run()
    update = {"weights_sha256": weights_sha256(loaded.model), "lipschitz": loaded.model.lipschitz}
    model = run.record.model.model_copy(update=update)
    record = run.record.model_copy(update={"model": model})
    return Run(record, run.images, run.attacks, run.run_info)


def test_what_is_uploaded_can_be_loaded_from_a_folder(loaded: LoadedModel, tmp_path: Path) -> None:
    upload = model_upload(loaded, "me/mine")
    assert set(upload.files) == {"README.md", "SHA256SUMS", "config.json", "model.safetensors"}
    for name, data in upload.files.items():
        (tmp_path / name).write_bytes(data)
    again = load_model(f"local-dir:{tmp_path}")
    assert weights_sha256(again.model) == weights_sha256(loaded.model)
    assert again.model.lipschitz == 0.5
    assert again.metadata["recipe_name"] == "mine"
    images = torch.rand(3, 2, 6, 6)
    assert again.model(images).equal(loaded.model(images))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sandwich_mlp", {"normalized_head": True}),
        ("aol_cnn", {"normalized_head": True, "pool_grid": 2}),
        ("sandwich_bcop_cnn", {"pool_grid": 2}),
        ("plain_cnn", {}),
    ],
)
def test_what_a_network_was_built_with_comes_back(name: str, settings: dict[str, object], tmp_path: Path) -> None:
    sizes = {"img_size": 8, "in_chans": 1, "num_classes": 3}
    with narrow_models():
        model = timm.create_model(name, **sizes, **settings).eval()
        for path, data in model_upload(LoadedModel(model, "mine", name), "me/mine").files.items():
            (tmp_path / path).write_bytes(data)
        again = load_model(f"local-dir:{tmp_path}").model
    assert str(again) == str(model)
    images = torch.rand(3, 1, 8, 8)
    assert again(images).equal(model(images))


def test_and_from_the_hub(loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub() as stand_in:
        for name, value in {
            "HF_HUB_OFFLINE": False,
            "ENDPOINT": stand_in.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": stand_in.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path),
        }.items():
            monkeypatch.setattr(constants, name, value)
        send(model_upload(loaded, "me/mine"), HfApi(endpoint=stand_in.endpoint, token=TOKEN))
        assert json.loads(stand_in.files["models/me/mine"]["config.json"])["architecture"] == "sandwich_mlp"
        again = load_model("hf-hub:me/mine")
    assert weights_sha256(again.model) == weights_sha256(loaded.model)
    assert again.model.lipschitz == 0.5


def test_the_card_shows_figures_of_these_weights_alone(loaded: LoadedModel) -> None:
    run = run_of(loaded)
    card = model_upload(loaded, "me/mine", run).files["README.md"].decode()
    _, front, body = card.split("---\n", 2)
    data = yaml.safe_load(front)
    assert (data["library_name"], data["license"]) == ("timm", "apache-2.0")
    (index,) = data["model-index"]
    metrics = {m["name"]: m["value"] for result in index["results"] for m in result["metrics"]}
    results = run.record.results
    assert metrics["clean accuracy"] == float(results.clean.percent)
    for at in results.threat_models:
        assert metrics[f"certified accuracy at {at.threat_model}"] == float(at.certified.percent)
    assert "## Certificate" in body
    assert 'timm.create_model("hf-hub:me/mine", pretrained=True)' in body

    other = run.record.model_copy(update={"model": run.record.model.model_copy(update={"weights_sha256": "c" * 64})})
    with pytest.raises(RecordError, match="is of weights with SHA-256 c"):
        model_upload(loaded, "me/mine", replace(run, record=other))

    looser = run.record.model_copy(update={"model": run.record.model.model_copy(update={"lipschitz": 1.0})})
    with pytest.raises(RecordError, match=r"with Lipschitz bound 1\.0, local-dir:mine has 0\.5: evaluate this model"):
        model_upload(loaded, "me/mine", replace(run, record=looser))


def test_without_a_run_there_are_no_figures(loaded: LoadedModel) -> None:
    card = model_upload(loaded, "me/mine").files["README.md"].decode()
    assert "Not evaluated yet" in card
    assert "model-index" not in card
    assert weights_sha256(loaded.model) in card


def test_weights_keep_their_type_and_metadata(loaded: LoadedModel, tmp_path: Path) -> None:
    model = narrow_model("sandwich_cnn", dtype=torch.float64)
    upload = model_upload(LoadedModel(model, "mine", "sandwich_cnn", {"recipe_name": "r"}), "me/mine")
    (tmp_path / "model.safetensors").write_bytes(upload.files["model.safetensors"])
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "recipe_name": "r"}
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float64}  # noqa: SIM118


def test_a_module_that_timm_cannot_build_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="is a Linear, not a model that timm builds"):
        model_upload(LoadedModel(nn.Linear(2, 2), "package:function", "Linear"), "me/mine")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": "partial"}, "the run is 'partial'"),
        ({"dataset": {"split": "validation"}}, "of the split 'validation'"),
        ({"dataset": {"evaluated": Selection(kind="listed", count=40)}}, "images that somebody chose"),
    ],
    ids=["partial", "validation", "chosen"],
)
def test_a_run_that_no_leaderboard_takes_is_not_published_with_its_weights(
    loaded: LoadedModel, changes: dict, message: str
) -> None:
    run = run_of(loaded)
    if "dataset" in changes:
        changes = {"dataset": run.record.dataset.model_copy(update=changes["dataset"])}
    with pytest.raises(RecordError, match=message):
        model_upload(loaded, "me/mine", replace(run, record=run.record.model_copy(update=changes)))
