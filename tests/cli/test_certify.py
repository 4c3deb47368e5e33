"""``certify``: the library's figures, and the faults on the way to them."""

import importlib
from pathlib import Path

import pytest
import timm
from cli.calls import call, figures

from timm_lipschitz.certification import certify
from timm_lipschitz.certification.report import nominal_text
from timm_lipschitz.data import load_dataset
from timm_lipschitz.models.loading import load_model


def arguments(images: Path, model: str, *more: str) -> list[str]:
    return ["certify", model, "--data", "image_folder", "--data-dir", str(images), *more]


def test_figures_are_those_of_the_library(images: Path, trained: Path) -> None:
    result = call(
        *arguments(images, f"local-dir:{trained}", "--eps", "0.5", "--eps", "0", "--eps", "36/255", "--eps", "0.5")
    )
    data = load_dataset("image_folder", "test", images)
    expected = certify(load_model(f"local-dir:{trained}").model, data.pixels(slice(None)), data.labels)

    def row(count: int) -> tuple[str, str]:
        return f"{count * 1000 // 12 / 10:.1f}", f"{count} of 12"

    assert (result.exit_code, result.stderr) == (0, "")
    rows = figures(result.stdout)
    assert list(rows) == ["clean", "certified at l2:0.0", "certified at l2:36/255", "certified at l2:0.5"]
    assert rows["clean"] == rows["certified at l2:0.0"] == row(int((expected.margin > 0).sum()))
    assert rows["certified at l2:36/255"] == row(int((expected.radius > 36 / 255).sum()))
    assert rows["certified at l2:0.5"] == row(int((expected.radius > 0.5).sum()))
    assert (
        0 < int((expected.radius > 0.5).sum()) < int((expected.margin > 0).sum())
    )  # the model is neither blind nor perfect
    assert f"measured {expected.lipschitz:.9g}" in result.stdout
    assert expected.arithmetic in result.stdout
    median = float(expected.radius.sort().values[5])
    assert f"median radius    {int(median * 1000) / 1000:.3f}" in result.stdout


def test_limit_and_split_choose_the_images(images: Path, trained: Path) -> None:
    first = call(*arguments(images, f"local-dir:{trained}", "--limit", "5"))
    validation = call(*arguments(images, f"local-dir:{trained}", "--split", "validation", "--limit", "99"))

    assert figures(first.stdout)["clean"][1].endswith("of 5")
    assert figures(validation.stdout)["clean"][1].endswith("of 6")


def test_the_radii_by_default_rank_the_leaderboard_of_the_data() -> None:
    balls = importlib.import_module("timm_lipschitz.cli.certify")._balls
    assert list(map(str, balls(None, "mnist"))) == ["l2:36/255", "l2:1.0", "l2:1.58"]
    assert list(map(str, balls([], "cifar10"))) == ["l2:36/255", "l2:1.0"]


@pytest.mark.parametrize("eps", ["-1", "nan", "wide"])
def test_a_radius_that_is_none(images: Path, trained: Path, eps: str) -> None:
    result = call(*arguments(images, f"local-dir:{trained}", "--eps", eps))

    assert result.exit_code == 1
    assert result.stderr.startswith("error: eps")
    assert eps in result.stderr


def test_untrained_weights_are_the_same_every_time_and_noted(images: Path) -> None:
    first, again, other = (call(*arguments(images, "sandwich_cnn", *seed)) for seed in ([], [], ["--seed", "1"]))

    assert "no trained weights: these are random ones (seed 0)" in first.stderr
    assert first.stdout == again.stdout != other.stdout


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("sandwich_cn", "no model is called 'sandwich_cn'; did you mean one of sandwich_cnn"),
        ("local-dir:nowhere", "nowhere is not a folder"),
        ("hf-hub:", "error: "),
    ],
)
def test_a_model_that_is_not_there(images: Path, model: str, message: str) -> None:
    result = call(*arguments(images, model))

    assert result.exit_code == 1
    assert message in result.stderr


def test_a_model_without_a_bound(images: Path, without_a_bound: str) -> None:
    result = call(*arguments(images, without_a_bound))

    assert result.exit_code == 1
    assert "Sequential is not certifiable" in result.stderr


def test_a_model_for_other_data(trained: Path, images: Path) -> None:
    classes = call("certify", f"local-dir:{trained}", "--data", "mnist", "--limit", "2")
    size = call(*arguments(images, f"local-dir:{trained}", "--img-size", "10"))

    assert (classes.exit_code, size.exit_code) == (1, 1)
    assert "the model has 3 classes, data set 'mnist' has 10" in classes.stderr
    assert "images are 10x10" in size.stderr


def test_a_limit_of_no_images_is_wrong_usage(images: Path) -> None:
    assert call(*arguments(images, "sandwich_mlp", "--limit", "0")).exit_code == 2


def test_the_nominal_bound_of_a_normalised_head_ends_before_it() -> None:
    settings = {"img_size": 8, "in_chans": 3, "num_classes": 3, "lipschitz": 2.0}
    assert nominal_text(timm.create_model("sandwich_mlp", **settings)) == "2"
    assert (
        nominal_text(timm.create_model("sandwich_mlp", normalized_head=True, **settings))
        == "2, pixels to last hidden layer"
    )
