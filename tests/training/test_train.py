"""Training on a toy data set: it learns, resumes to the bit, and writes what the other commands load."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors
import timm
import torch

from timm_lipschitz import certify
from timm_lipschitz.errors import CheckpointError, InvalidInputError, NonFiniteError
from timm_lipschitz.models import load_model
from timm_lipschitz.training import RECIPES, Recipe, evaluate_margins, recipe_for, train
from timm_lipschitz.training.checkpoint import round_parameters, save_model
from timm_lipschitz.training.recipes import name_of, paper_recipe
from timm_lipschitz.training.schedules import make_schedule


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_learns_and_reports(train_data, validation_data, recipe, tmp_path):
    epochs = []
    train("sandwich_mlp", train_data, validation_data, recipe, tmp_path, on_epoch=epochs.append)
    assert [figures.epoch for figures in epochs] == [0, 1, 2]
    assert epochs[-1].loss < epochs[0].loss
    clean, *certified = epochs[-1].validation
    assert clean > 0.9
    assert clean >= certified[0] >= certified[1]


def test_writes_a_local_dir_model_with_its_history(train_data, validation_data, recipe, tmp_path):
    model = train("sandwich_mlp", train_data, validation_data, recipe, tmp_path, seed=5)
    loaded = load_model(f"local-dir:{tmp_path}")
    assert loaded.family == "sandwich_mlp"
    assert_same(model.state_dict(), loaded.model.state_dict())
    assert loaded.metadata["train_data"] == train_data.content_hash
    assert loaded.metadata["seed"] == "5"
    assert Recipe(**json.loads(loaded.metadata["recipe"])) == recipe
    assert len(json.loads(loaded.metadata["history"])) == recipe.epochs
    assert all(tensor.is_floating_point() for tensor in weights(tmp_path).values())
    assert set(weights(tmp_path)) == {name for name, _ in model.named_parameters()}, "free parameters and nothing else"


def test_stored_in_half_precision_it_is_the_network_of_the_rounded_parameters(
    train_data, validation_data, recipe, tmp_path
):
    exact = train("sandwich_mlp", train_data, validation_data, recipe, tmp_path)
    settings = {"resume": True, "stored": torch.float16}
    model = train("sandwich_mlp", train_data, validation_data, recipe, tmp_path, **settings)
    assert {tensor.dtype for tensor in weights(tmp_path).values()} == {torch.float16}
    loaded = load_model(f"local-dir:{tmp_path}")
    assert loaded.metadata["stored"] == "float16"
    assert_same(model.state_dict(), loaded.model.state_dict())
    assert_same({name: value.half().float() for name, value in exact.state_dict().items()}, model.state_dict())
    found = certify(loaded.model, torch.rand(2, *train_data.image_shape))
    assert 0 < found.lipschitz <= loaded.model.lipschitz * (1 + 1e-9), "the bound is that of any parameters"

    train("sandwich_mlp", train_data, validation_data, recipe, tmp_path, resume=True)
    assert_same(exact.state_dict(), weights(tmp_path))  # the state keeps the parameters as they were trained


def test_a_parameter_beyond_half_precision_is_not_stored_there():
    layer = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(layer.bias, 1e5)
    with pytest.raises(NonFiniteError, match="bias reaches 100000"):
        round_parameters(layer, torch.float16)


def test_buffers_are_stored_as_they_are(tmp_path):
    """They are not free: the running statistics of a batch norm, rounded, are another network than the one returned."""
    model = timm.create_model("sandwich_mlp", img_size=4)
    model.register_buffer("statistics", torch.full((3,), 1 / 3))
    save_model(model, tmp_path, {}, {}, torch.float16)
    stored = weights(tmp_path)
    assert stored.pop("statistics").dtype == torch.float32
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}


def test_same_seed_same_weights_other_seed_other_weights(train_data, validation_data, recipe, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train("sandwich_mlp", train_data, validation_data, recipe, tmp_path / name, seed=seed)
    assert_same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not torch.equal(weights(tmp_path / "a")["head.fc.weight"], weights(tmp_path / "c")["head.fc.weight"])


@pytest.mark.parametrize("finished_epochs", [1, 2])
@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_resumed_run_equals_an_uninterrupted_one(
    train_data, validation_data, recipe, tmp_path, finished_epochs, ema_decay
):
    recipe = recipe.with_overrides(padding=1, flip=True, ema_decay=ema_decay)
    train("sandwich_mlp", train_data, validation_data, recipe, tmp_path / "whole")

    def interrupt(epoch: int, step: int, steps: int, loss: float) -> None:
        if epoch == finished_epochs and step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("sandwich_mlp", train_data, validation_data, recipe, tmp_path / "cut", on_step=interrupt)
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    train("sandwich_mlp", train_data, validation_data, recipe, tmp_path / "cut", resume=True)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_resume_refuses_other_settings_and_names_them(train_data, validation_data, recipe, tmp_path):
    train("sandwich_mlp", train_data, validation_data, recipe, tmp_path)
    with pytest.raises(CheckpointError, match="learning_rate"):
        train(
            "sandwich_mlp", train_data, validation_data, recipe.with_overrides(learning_rate=0.5), tmp_path, resume=True
        )
    with pytest.raises(CheckpointError, match="seed: 0 -> 3"):
        train("sandwich_mlp", train_data, validation_data, recipe, tmp_path, seed=3, resume=True)


def test_resume_without_a_state_says_so(train_data, validation_data, recipe, tmp_path):
    with pytest.raises(CheckpointError, match="nothing to resume"):
        train("sandwich_mlp", train_data, validation_data, recipe, tmp_path, resume=True)


def test_a_damaged_state_is_refused(train_data, validation_data, recipe, tmp_path):
    train("sandwich_mlp", train_data, validation_data, recipe, tmp_path)
    state = tmp_path / "training_state.pt"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        train("sandwich_mlp", train_data, validation_data, recipe, tmp_path, resume=True)


def test_a_diverging_loss_stops_the_run_and_keeps_the_epoch_before(
    train_data, validation_data, recipe, tmp_path, monkeypatch
):
    original = Recipe.make_loss
    calls = 0

    def exploding(self: Recipe):
        loss = original(self)

        def wrapped(logits, labels):
            nonlocal calls
            calls += 1
            return loss(logits, labels) * (float("nan") if calls > 8 else 1.0)

        return wrapped

    monkeypatch.setattr(Recipe, "make_loss", exploding)
    with pytest.raises(NonFiniteError, match="epoch 1"):
        train("sandwich_mlp", train_data, validation_data, recipe, tmp_path)
    assert torch.load(tmp_path / "training_state.pt", weights_only=True)["epoch"] == 0


def test_schedule_rises_and_falls_to_zero(train_data, validation_data, recipe, tmp_path):
    train("sandwich_mlp", train_data, validation_data, recipe, tmp_path)
    groups = torch.load(tmp_path / "training_state.pt", weights_only=True)["optimizer"]["param_groups"]
    assert all(group["lr"] <= recipe.learning_rate * 0.05 for group in groups)


def test_the_papers_schedule_peaks_at_two_fifths_and_ends_at_zero(train_data, validation_data, recipe, tmp_path):
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    schedule = make_schedule(optimizer, recipe.with_overrides(schedule="piecewise", epochs=100), steps=10)
    rates = []
    for update in range(1000):
        schedule.step_update(update)
        rates.append(optimizer.param_groups[0]["lr"])
    assert max(rates) == rates[399] == pytest.approx(recipe.learning_rate)
    assert rates[0] == pytest.approx(recipe.learning_rate / 400)
    assert rates[799] == pytest.approx(recipe.learning_rate / 20)
    assert rates[999] == 0
    train("sandwich_mlp", train_data, validation_data, recipe.with_overrides(schedule="piecewise"), tmp_path)
    groups = torch.load(tmp_path / "training_state.pt", weights_only=True)["optimizer"]["param_groups"]
    assert all(group["lr"] == 0 for group in groups)


def test_rivals_are_trained_like_the_others(train_data, validation_data, recipe, tmp_path):
    recipe = recipe.with_overrides(epochs=2, lipschitz=2.0)
    train("orthogonal_cnn", train_data, validation_data, recipe, tmp_path)
    model = load_model(f"local-dir:{tmp_path}").model
    assert model.lipschitz == 2.0
    assert evaluate_margins(model, validation_data, torch.device("cpu"))[0] > 0.3


def test_a_plain_network_is_trained_without_a_bound(train_data, validation_data, recipe, tmp_path):
    recipe = replace(recipe, lipschitz=None)
    train("plain_cnn", train_data, validation_data, recipe, tmp_path)
    model = load_model(f"local-dir:{tmp_path}").model
    assert model.lipschitz is None
    clean, *certified = evaluate_margins(model, validation_data, torch.device("cpu"))
    assert clean > 0.5
    assert certified == [0.0, 0.0, 0.0]
    with pytest.raises(InvalidInputError, match="a plain network has no Lipschitz bound"):
        train("plain_cnn", train_data, validation_data, replace(recipe, lipschitz=1.0), tmp_path / "bounded")


def test_the_bound_and_the_image_size_come_with_the_model(train_data, validation_data, recipe, tmp_path):
    train("sandwich_cnn", train_data, validation_data, recipe.with_overrides(lipschitz=2.0, epochs=2), tmp_path)
    model = load_model(f"local-dir:{tmp_path}").model
    assert model.lipschitz == 2.0
    assert model.img_size == (6, 6)
    assert model.num_classes == 3


def test_a_recipe_goes_by_its_own_name(train_data, validation_data, recipe, tmp_path, monkeypatch):
    """Whatever the model: a network trained by the budget of all families does not claim the recipe of its own name."""
    monkeypatch.setitem(RECIPES, "shared", recipe)
    train("sandwich_mlp", train_data, validation_data, recipe, tmp_path / "shared")
    train("sandwich_mlp", train_data, validation_data, recipe.with_overrides(epochs=2), tmp_path / "other")
    train("plain_cnn", train_data, validation_data, replace(recipe, lipschitz=None), tmp_path / "plain")
    folders = ("shared", "other", "plain")
    names = [load_model(f"local-dir:{tmp_path / folder}").metadata["recipe_name"] for folder in folders]
    assert names == ["shared", f"sandwich_mlp.{train_data.name}", "shared"]


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("sandwich_mlp.mnist", "sandwich_mlp.mnist"),
        ("sandwich_cnn.mnist", "sandwich_cnn.mnist"),
        ("sandwich_bcop_cnn.mnist", "sandwich_bcop_cnn.mnist"),
        ("sandwich_bcop_cnn.cifar10_jpeg", "sandwich_bcop_cnn.cifar10_jpeg"),
        ("sandwich_bcop_cnn.fashion_mnist", "fashion_mnist"),
    ],
)
def test_shipped_checkpoints_were_trained_by_the_recipes_that_they_name(name, recipe):
    metadata = load_model(name).metadata
    assert Recipe(**json.loads(metadata["recipe"])) == RECIPES[recipe] == recipe_for(*name.split("."))
    assert metadata["recipe_name"] == recipe


def test_a_changed_recipe_does_not_go_by_the_name_of_the_one_it_was():
    shipped = recipe_for("sandwich_bcop_cnn", "mnist")
    assert name_of(shipped, "sandwich_bcop_cnn.mnist") == "sandwich_bcop_cnn.mnist"
    changed = shipped.with_overrides(margin=3.0)
    assert name_of(changed, "sandwich_bcop_cnn.mnist") == "sandwich_bcop_cnn.mnist-changed"
    assert name_of(changed, "sandwich_bcop_cnn.cifar10") == "sandwich_bcop_cnn.cifar10"


def test_recipes():
    assert recipe_for("sandwich_mlp", "mnist") is RECIPES["sandwich_mlp.mnist"]
    assert recipe_for("sandwich_mlp", "elsewhere") == Recipe()
    assert recipe_for("sandwich_cnn", "cifar100") == paper_recipe()
    assert recipe_for("sandwich_dnn", "tiny_imagenet") == paper_recipe(epochs=400)
    assert recipe_for("plain_cnn_large", "cifar10") == paper_recipe(None)
    budget = RECIPES["mnist"]
    assert budget == recipe_for("orthogonal_cnn", "mnist") == recipe_for("aol_cnn_large", "mnist"), "one for all"
    assert recipe_for("plain_cnn", "mnist") == replace(budget, lipschitz=None)
    assert recipe_for("sandwich_cnn", "mnist", "mnist") == budget
    shipped = recipe_for("sandwich_cnn", "mnist")
    assert shipped == RECIPES["sandwich_cnn.mnist"]
    with pytest.raises(
        InvalidInputError, match="no recipe is called 'imagenet'; there are cifar10_jpeg, fashion_mnist, mnist,"
    ):
        recipe_for("sandwich_cnn", "mnist", "imagenet")
    assert shipped.tuned_on == "validation"
    assert shipped.with_overrides(epochs=None) == shipped
    assert shipped.with_overrides(epochs=20).tuned_on == "nothing", "a changed recipe was tuned on nothing"


@pytest.mark.parametrize("bound", [None, 1.0, 7.8])
def test_the_papers_offsets_do_not_grow_with_the_bound(bound):
    cross_entropy = paper_recipe(bound).make_loss()
    assert cross_entropy.offset == pytest.approx(1.5 * 2**0.5)
    assert cross_entropy.temperature == pytest.approx(0.25)
    assert paper_recipe(bound, loss="multi_margin").make_loss().margin == pytest.approx(0.5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"margin": 0.0},
        {"lipschitz": float("nan")},
        {"learning_rate": -1.0},
        {"warmup_epochs": 20},
        {"loss": "hinge"},
        {"schedule": "step"},
    ],
)
def test_recipes_refuse_nonsense(wrong):
    name = next(iter(wrong))
    with pytest.raises(InvalidInputError, match=name if name != "loss" else "hinge"):
        Recipe(**wrong)
