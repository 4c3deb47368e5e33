"""Training on several processes: the figures of one, whoever computes what."""

import json
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from training.rank_processes import on_ranks

from timm_lipschitz.data import ImageDataset
from timm_lipschitz.errors import InvalidInputError
from timm_lipschitz.models import load_model
from timm_lipschitz.training import EpochFigures, Execution, Recipe, train
from timm_lipschitz.training.ranks import rank, require_same, sum_over_ranks, world_size

# Not Adam: it makes whole steps of the rounding of gradients that are zero but for rounding.
SGD = Recipe(
    epochs=3,
    batch_size=16,
    optimizer="sgd",
    learning_rate=0.3,
    margin=0.3,
    ema_decay=0.9,
    padding=1,
    flip=True,
    clip_grad=0.5,
)


def train_part(
    _: int, datasets: tuple[ImageDataset, ImageDataset], recipe: Recipe, out: Path, execution: Execution, **options: Any
) -> list[EpochFigures]:
    epochs: list[EpochFigures] = []
    train("sandwich_mlp", *datasets, recipe, out, execution=execution, on_epoch=epochs.append, **options)
    return epochs


def resume_part(*arguments: Any) -> list[EpochFigures]:
    return train_part(*arguments, resume=True)


def stop_after(epochs: int):
    def on_epoch(figures: EpochFigures) -> None:
        if figures.epoch + 1 == epochs:
            raise KeyboardInterrupt

    return on_epoch


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def assert_close(folder: Path, other: Path) -> None:
    first, second = weights(folder), weights(other)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=2e-6)


def assert_same_figures(first: list[EpochFigures], second: list[EpochFigures]) -> None:
    assert [figures.epoch for figures in first] == [figures.epoch for figures in second]
    assert [figures.loss for figures in first] == pytest.approx([figures.loss for figures in second], rel=1e-5)
    assert [figures.validation for figures in first] == [figures.validation for figures in second]


@pytest.mark.parametrize(
    ("processes", "execution"),
    [
        pytest.param(3, Execution(), id="3, whose parts of 16 images are unequal"),
        pytest.param(2, Execution(grad_checkpointing=True), id="2, with gradient checkpointing"),
    ],
)
def test_several_processes_train_as_one(
    train_data, validation_data, tmp_path, forkserver: BaseContext, processes: int, execution: Execution
):
    datasets = train_data, validation_data
    alone = train_part(0, datasets, SGD, tmp_path / "one", execution)
    together = on_ranks(forkserver, processes, tmp_path, train_part, datasets, SGD, tmp_path / "several", execution)
    for figures in together:
        assert_same_figures(figures, alone)
    assert_close(tmp_path / "several", tmp_path / "one")
    assert alone[-1].loss < 0.97 * alone[0].loss, "too little happened for the comparison to say anything"


def test_a_run_resumes_on_another_number_of_processes(train_data, validation_data, tmp_path, forkserver: BaseContext):
    datasets = train_data, validation_data
    train_part(0, datasets, SGD, tmp_path / "whole", Execution())
    out = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        train("sandwich_mlp", *datasets, SGD, out, on_epoch=stop_after(1))
    for figures in on_ranks(forkserver, 2, tmp_path, resume_part, datasets, SGD, out, Execution()):
        assert [epoch.epoch for epoch in figures] == [1, 2]
    assert_close(out, tmp_path / "whole")
    first, second = json.loads(load_model(f"local-dir:{out}").metadata["executions"])
    assert (first["first_epoch"], first["processes"]) == (0, 1)
    assert (second["first_epoch"], second["processes"]) == (1, 2)


def disagree(rank: int) -> None:
    require_same({"model": "sandwich_mlp", "seed": min(rank, 1)})


def diverge_on_the_last(rank: int, datasets: tuple[ImageDataset, ImageDataset], recipe: Recipe, out: Path) -> None:
    """The loss becomes NaN on one rank alone."""
    original = Recipe.make_loss
    if rank == world_size() - 1:
        Recipe.make_loss = lambda self: lambda logits, labels: original(self)(logits, labels) * float("nan")
    train("sandwich_mlp", *datasets, recipe, out)


def test_ranks_that_disagree_all_say_so(tmp_path, forkserver: BaseContext):
    for error in on_ranks(forkserver, 3, tmp_path, disagree):
        assert isinstance(error, InvalidInputError)
        assert "ranks 0 and 1 disagree (seed: 0 and 1)" in str(error)


def test_more_processes_than_images_in_a_batch(train_data, validation_data, tmp_path, forkserver: BaseContext):
    recipe = SGD.with_overrides(batch_size=1)
    datasets = train_data, validation_data
    for error in on_ranks(forkserver, 2, tmp_path, train_part, datasets, recipe, tmp_path / "out", Execution()):
        assert isinstance(error, InvalidInputError)
        assert "batch_size 1 on 2 ranks" in str(error)


def test_a_loss_that_diverges_on_one_rank_ends_all(train_data, validation_data, tmp_path, forkserver: BaseContext):
    out = tmp_path / "out"
    errors = on_ranks(forkserver, 2, tmp_path, diverge_on_the_last, (train_data, validation_data), SGD, out)
    assert [type(error).__name__ for error in errors] == ["NonFiniteError", "NonFiniteError"]


def test_without_a_group_there_is_one_rank():
    assert (rank(), world_size()) == (0, 1)
    assert sum_over_ranks(torch.tensor([3])).tolist() == [3]
    require_same({"seed": 0})
