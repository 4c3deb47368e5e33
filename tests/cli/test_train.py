"""``train``: what it writes, what it refuses, and that an interrupted training goes on as if nothing had happened."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from cli.calls import TRAIN_OPTIONS, call, printed_commands
from safetensors.torch import load_file

import timm_lipschitz
from timm_lipschitz.cli import _torchrun
from timm_lipschitz.errors import InvalidInputError
from timm_lipschitz.models.loading import load_model
from timm_lipschitz.training import RECIPES, Recipe, loop


def arguments(images: Path, out: Path, *more: str) -> list[str]:
    return ["train", "sandwich_mlp", "--data", "image_folder", "--data-dir", str(images), "--out", str(out), *more]


def test_it_writes_a_model_for_the_other_commands(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "my model"
    result = call(*arguments(images, out, "--epochs", "1", "--batch-size", "16", "--lipschitz", "2", "--seed", "7"))

    assert (result.exit_code, result.stderr) == (0, "")
    loaded = load_model(f"local-dir:{out}")
    assert loaded.model.lipschitz == 2.0
    assert loaded.metadata["seed"] == "7"
    assert loaded.metadata["split"] == "train"
    assert loaded.model(torch.zeros(1, 3, 8, 8)).shape == (1, 3)
    (next_command,) = printed_commands(result.stdout)
    followed = call(*next_command)
    assert followed.exit_code == 0, followed.output
    assert "certified at l2:36/255" in followed.stdout


def test_each_epoch_is_a_line_that_says_it_is_no_record(images: Path, tmp_path: Path) -> None:
    lines = call(*arguments(images, tmp_path / "m", *TRAIN_OPTIONS)).stdout.splitlines()

    assert [line.split(":")[0] for line in lines[:3]] == ["epoch 1 of 3", "epoch 2 of 3", "epoch 3 of 3"]
    assert all("validation (no record): clean " in line and ", 36/255 " not in line for line in lines[:3])
    assert all("certified at 36/255 " in line and "1.58 " in line for line in lines[:3])


def test_percentages_of_an_epoch_are_rounded_down() -> None:
    import importlib

    line = importlib.import_module("timm_lipschitz.cli.train")._epoch_line
    figures = loop.EpochFigures(0, 0.25, (5999 / 6000, 2 / 3, 0.5, 0.0), 12.0, 11.0)
    assert line(figures, 4, 6000) == (
        "epoch 1 of 4: loss 0.2500; validation (no record): "
        "clean 99.9, certified at 36/255 66.6, 1.0 50.0, 1.58 0.0 (12 s)"
    )


def test_interrupted_and_resumed_equals_uninterrupted(
    images: Path, tmp_path: Path, interrupt_at: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(epochs=3, batch_size=16, learning_rate=0.01, ema_decay=0.9, padding=1)  # as much state as there is
    monkeypatch.setitem(RECIPES, "sandwich_mlp.image_folder", recipe)
    out, other = tmp_path / "m", tmp_path / "other"
    assert call(*arguments(images, other)).exit_code == 0
    interrupt_at(loop, "evaluate_margins", 2)  # Ctrl-C at the end of the second epoch; afterwards calls go through
    result = call(*arguments(images, out))

    assert result.exit_code == 130
    assert f"the finished epochs are in {out}; go on with:" in result.stderr
    assert not (out / "model.safetensors").exists()
    (go_on,) = printed_commands(result.stderr)
    resumed = call(*go_on)

    assert resumed.exit_code == 0, resumed.output
    assert [line.split(":")[0] for line in resumed.stdout.splitlines()[:2]] == ["epoch 2 of 3", "epoch 3 of 3"]
    weights, uninterrupted = load_file(out / "model.safetensors"), load_file(other / "model.safetensors")
    assert weights.keys() == uninterrupted.keys()
    assert all(weights[name].numpy().tobytes() == uninterrupted[name].numpy().tobytes() for name in weights)
    assert load_model(f"local-dir:{out}").metadata == load_model(f"local-dir:{other}").metadata
    assert (out / "config.json").read_bytes() == (other / "config.json").read_bytes()


def test_interrupted_before_the_first_epoch_ends_means_starting_again(
    images: Path, tmp_path: Path, interrupt_at: Callable[..., None]
) -> None:
    interrupt_at(loop, "evaluate_margins", 1)
    result = call(*arguments(images, tmp_path / "m", *TRAIN_OPTIONS))

    assert result.exit_code == 130
    assert "no epoch was finished" in result.stderr
    assert printed_commands(result.stderr) == [arguments(images, tmp_path / "m", *TRAIN_OPTIONS)]


@pytest.mark.parametrize("file", ["model.safetensors", "training_state.pt"])
def test_what_was_trained_before_is_not_overwritten(images: Path, tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_bytes(b"hours of work")
    result = call(*arguments(images, tmp_path, *TRAIN_OPTIONS))

    assert result.exit_code == 1
    assert "--resume" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == [file]
    assert (tmp_path / file).read_bytes() == b"hours of work"


def test_nothing_to_resume(images: Path, tmp_path: Path) -> None:
    result = call(*arguments(images, tmp_path / "m", *TRAIN_OPTIONS, "--resume"))

    assert result.exit_code == 1
    assert "nothing to resume" in result.stderr


def test_resuming_with_other_settings_names_them(images: Path, trained: Path) -> None:
    before = (trained / "model.safetensors").read_bytes()
    result = call(*arguments(images, trained, *TRAIN_OPTIONS, "--resume", "--seed", "5"))

    assert result.exit_code == 1
    assert "seed: 0 -> 5" in result.stderr
    assert (trained / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("model", ["resnet18", "no_such_model", "sandwich_mlp.nonsense", "local-dir:runs/x"])
def test_only_models_of_the_package_are_trained(images: Path, tmp_path: Path, model: str) -> None:
    result = call("train", model, *arguments(images, tmp_path / "m")[2:])

    assert result.exit_code == 1
    assert f"cannot train {model!r}" in result.stderr
    assert "sandwich_mlp" in result.stderr.replace(model, "")


def test_unknown_data() -> None:
    result = call("train", "sandwich_mlp", "--data", "minst")

    assert result.exit_code == 1
    assert "unknown data set 'minst'. Did you mean 'mnist'?" in result.stderr


def test_missing_files_are_named_with_their_place(tmp_path: Path) -> None:
    nowhere = call("train", "sandwich_mlp", "--data", "mnist")
    empty = call("train", "sandwich_mlp", "--data", "mnist", "--data-dir", tmp_path, "--out", tmp_path / "m")

    assert (nowhere.exit_code, empty.exit_code) == (1, 1)
    assert "--data-dir" in nowhere.stderr
    assert "train-images-idx3-ubyte" in empty.stderr
    assert str(tmp_path / "MNIST" / "raw") in empty.stderr
    assert not (tmp_path / "m").exists()


def test_a_folder_that_cannot_be_written(images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = call(*arguments(images, tmp_path / "file" / "m", *TRAIN_OPTIONS))

    assert result.exit_code == 1
    assert f"cannot write to '{tmp_path / 'file' / 'm'}'" in result.stderr


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--device", "tpu", "use cpu, cuda"), ("--learning-rate", "nan", "learning_rate"), ("--margin", "-1", "margin")],
)
def test_impossible_settings(images: Path, tmp_path: Path, option: str, value: str, message: str) -> None:
    result = call(*arguments(images, tmp_path / "m", option, value))

    assert result.exit_code == 1
    assert message in result.stderr
    assert value in result.stderr


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0.1), (5, 0.5), (10, 1.0), (30, 1.0)])
def test_fewer_epochs_shorten_the_warm_up(epochs: int, warmup: float) -> None:
    recipe = Recipe(epochs=10, warmup_epochs=1.0, tuned_on="validation").with_overrides(epochs=epochs, margin=None)

    assert (recipe.epochs, recipe.warmup_epochs) == (epochs, warmup)
    assert recipe.tuned_on == ("validation" if epochs == 10 else "nothing")


def test_how_to_compute_is_passed_on_and_recorded(images: Path, tmp_path: Path) -> None:
    options = (*TRAIN_OPTIONS, "--epochs", "1", "--precision", "bfloat16", "--grad-checkpointing")
    assert call(*arguments(images, tmp_path / "m", *options)).exit_code == 0

    metadata = load_model(f"local-dir:{tmp_path / 'm'}").metadata
    assert metadata["precision"] == "bfloat16"
    (execution,) = json.loads(metadata["executions"])
    assert (execution["grad_checkpointing"], execution["compile"], execution["processes"]) == (True, False, 1)

    other = call(*arguments(images, tmp_path / "m", *TRAIN_OPTIONS, "--epochs", "1", "--resume"))
    assert other.exit_code == 1
    assert "precision: 'bfloat16' -> 'float32'" in other.stderr


@pytest.mark.slow
def test_two_processes_of_torchrun_train_as_one(images: Path, tmp_path: Path) -> None:
    # Adam makes whole steps of the rounding of gradients near zero: hence few steps, and small ones
    options = ("--epochs", "1", "--batch-size", "15", "--margin", "0.3", "--learning-rate", "1e-4", "--flip")
    alone = call(*arguments(images, tmp_path / "one", *options))
    assert alone.exit_code == 0, alone.output
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    together = subprocess.run(
        [*torchrun, "-m", "timm_lipschitz", *arguments(images, tmp_path / "two", *options)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(timm_lipschitz.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
    )
    assert together.returncode == 0, together.stderr
    assert together.stdout.count("epoch 1 of 1") == 1, "the first process alone prints"

    first, second = (load_model(f"local-dir:{tmp_path / name}") for name in ("one", "two"))
    assert json.loads(second.metadata["executions"])[0]["processes"] == 2
    (epoch,), (other,) = (json.loads(loaded.metadata["history"]) for loaded in (first, second))
    assert other["loss"] == pytest.approx(epoch["loss"], rel=1e-4)
    assert other["validation"] == epoch["validation"]
    weights, others = first.model.state_dict(), second.model.state_dict()
    assert weights.keys() == others.keys()
    for name in weights:
        far = (weights[name] - others[name]).abs() > 1e-5
        assert far.double().mean() < 0.01, name


def as_process(monkeypatch: pytest.MonkeyPatch, **environment: str) -> None:
    """This process as torchrun starts one of two, without the group."""
    given = {
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_WORLD_SIZE": "1",
        "RANK": "0",
        "LOCAL_RANK": "0",
        **environment,
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    @contextmanager
    def alone(device: torch.device) -> Iterator[torch.device]:
        yield device

    monkeypatch.setattr(_torchrun, "process_group", alone)


def test_only_the_first_process_prints(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_process(monkeypatch, RANK="1")
    result = call(*arguments(images, tmp_path / "m", *TRAIN_OPTIONS))

    assert (result.exit_code, result.output) == (0, "")


@pytest.mark.parametrize(
    ("machines", "expected"),
    [("1", "--nproc-per-node 2 -m"), ("3", "--nnodes 3 --rdzv-backend c10d --rdzv-endpoint HOST:PORT")],
)
def test_interrupted_under_torchrun_goes_on_under_torchrun(
    images: Path,
    tmp_path: Path,
    interrupt_at: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    machines: str,
    expected: str,
) -> None:
    as_process(monkeypatch, GROUP_WORLD_SIZE=machines)
    interrupt_at(loop, "evaluate_margins", 2)
    result = call(*arguments(images, tmp_path / "m", *TRAIN_OPTIONS))

    assert result.exit_code == 130
    command = result.stderr.splitlines()[-1]
    assert "torch" in command.split()[0] or "torch.distributed.run" in command
    assert expected in command
    assert printed_commands(command) == [[*arguments(images, tmp_path / "m", *TRAIN_OPTIONS), "--resume"]]


def test_processes_that_torchrun_starts_anew_go_on(
    images: Path, tmp_path: Path, interrupt_at: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_process(monkeypatch)
    interrupt_at(loop, "evaluate_margins", 2)
    command = arguments(images, tmp_path / "m", *TRAIN_OPTIONS)
    assert call(*command).exit_code == 130
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    again = call(*command)

    assert again.exit_code == 0, again.output
    assert [line.split(":")[0] for line in again.stdout.splitlines()[:2]] == ["epoch 2 of 3", "epoch 3 of 3"]


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    process_group = _torchrun.process_group
    as_process(monkeypatch)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InvalidInputError, match="2 processes here and torch sees 1 GPUs"):
        process_group(torch.device("cuda")).__enter__()
