"""Precision, checkpointing and compilation: what each changes, and what none may change."""

import json
from pathlib import Path

import pytest
import safetensors
import torch
from timm.task import ClassificationTask

from timm_lipschitz.errors import CheckpointError, InvalidInputError
from timm_lipschitz.losses import MarginCrossEntropy
from timm_lipschitz.models import _trunk, load_model
from timm_lipschitz.training import Execution, loop, train
from timm_lipschitz.training.task import PrecisionTask


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


class Spy(torch.nn.Module):
    """A model and a loss that note whether autocast is on around them, and what the loss is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.eye(3))
        self.seen: list[object] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(torch.is_autocast_enabled(x.device.type))
        return x @ self.weight

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.seen += [torch.is_autocast_enabled(logits.device.type), logits.dtype]
        return MarginCrossEntropy(0.3)(logits, labels)


@pytest.mark.parametrize(("precision", "mixed"), [("float32", False), ("bfloat16", True)])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_the_model_alone_runs_in_bfloat16(device: str, precision, mixed: bool):
    spy = Spy().to(device)
    result = PrecisionTask(spy, spy.loss, torch.device(device), precision)(
        torch.rand(4, 3, device=device), torch.arange(4, device=device) % 3
    )
    assert spy.seen == [mixed, False, torch.float32]
    assert result["output"].dtype == (torch.bfloat16 if mixed else torch.float32)
    result["loss"].backward()
    assert spy.weight.grad is not None
    assert spy.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("model", ["sandwich_mlp", "sandwich_cnn"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_bfloat16_learns_and_is_recorded(
    train_data, validation_data, recipe, tmp_path, monkeypatch, model: str, device: str
):
    validating = []
    evaluate = loop.evaluate_margins

    def spied(*arguments):
        validating.append(torch.is_autocast_enabled(device))
        return evaluate(*arguments)

    monkeypatch.setattr(loop, "evaluate_margins", spied)
    epochs = []
    options = {"device": device, "on_epoch": epochs.append}
    train(model, train_data, validation_data, recipe, tmp_path, execution=Execution("bfloat16"), **options)
    assert validating == [False] * recipe.epochs
    assert epochs[-1].loss < 0.9 * epochs[0].loss
    assert all(tensor.dtype == torch.float32 for tensor in weights(tmp_path).values())
    assert load_model(f"local-dir:{tmp_path}").metadata["precision"] == "bfloat16"
    with pytest.raises(CheckpointError, match="precision: 'bfloat16' -> 'float32'"):
        train(model, train_data, validation_data, recipe, tmp_path, resume=True)


def test_bfloat16_gives_other_figures(train_data, validation_data, recipe, tmp_path):
    for precision in ("float32", "bfloat16"):
        train("sandwich_mlp", train_data, validation_data, recipe, tmp_path / precision, execution=Execution(precision))
    assert not torch.equal(*(weights(tmp_path / name)["head.fc.weight"] for name in ("float32", "bfloat16")))


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_checkpointing_computes_the_same(train_data, validation_data, recipe, tmp_path, monkeypatch, ema_decay):
    recipe = recipe.with_overrides(epochs=2)
    recipe = type(recipe)(**{**recipe.to_dict(), "ema_decay": ema_decay})
    train("sandwich_mlp", train_data, validation_data, recipe, tmp_path / "plain")
    calls = []
    original = _trunk.checkpoint_seq
    monkeypatch.setattr(_trunk, "checkpoint_seq", lambda *arguments: calls.append(1) or original(*arguments))
    options = Execution(grad_checkpointing=True)
    trained = train("sandwich_mlp", train_data, validation_data, recipe, tmp_path / "less memory", execution=options)
    assert calls
    assert not trained.grad_checkpointing
    plain, other = weights(tmp_path / "plain"), weights(tmp_path / "less memory")
    assert all(torch.equal(plain[name], other[name]) for name in plain)


def test_compiled_training_saves_the_model_as_it_was(train_data, validation_data, recipe, tmp_path, monkeypatch):
    # the backend without code generation: a compiler takes half a minute, and changes nothing that is asked here
    compiled = []
    original = ClassificationTask.compile

    def compile_quickly(self, **options):
        compiled.append(self)
        return original(self, backend="aot_eager", **options)

    monkeypatch.setattr(ClassificationTask, "compile", compile_quickly)
    recipe = recipe.with_overrides(epochs=2)
    for name, execution in (("plain", Execution()), ("compiled", Execution(compile=True))):
        train("sandwich_mlp", train_data, validation_data, recipe, tmp_path / name, execution=execution)
    assert len(compiled) == 1
    plain, other = weights(tmp_path / "plain"), weights(tmp_path / "compiled")
    assert plain.keys() == other.keys()
    for name in plain:
        torch.testing.assert_close(plain[name], other[name], rtol=0, atol=1e-3)
    load_model(f"local-dir:{tmp_path / 'compiled'}")


def test_how_it_was_computed_is_recorded_from_epoch_to_epoch(train_data, validation_data, recipe, tmp_path):
    def stop(figures):
        raise KeyboardInterrupt

    arguments = ("sandwich_mlp", train_data, validation_data, recipe, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(*arguments, on_epoch=stop)
    with pytest.raises(KeyboardInterrupt):
        train(*arguments, resume=True, on_epoch=stop)  # as before: nothing new to say
    train(*arguments, resume=True, execution=Execution(grad_checkpointing=True))
    usual = {"device": "cpu", "processes": 1, "compile": False}
    expected = [
        {"first_epoch": 0, **usual, "grad_checkpointing": False},
        {"first_epoch": 2, **usual, "grad_checkpointing": True},
    ]
    assert json.loads(load_model(f"local-dir:{tmp_path}").metadata["executions"]) == expected

    train(*arguments, resume=True)  # a finished run: no epoch is computed any more
    assert json.loads(load_model(f"local-dir:{tmp_path}").metadata["executions"]) == expected


def test_an_unknown_precision():
    with pytest.raises(InvalidInputError, match="precision 'float16' is unknown"):
        Execution("float16")  # type: ignore[arg-type]


@pytest.mark.cuda
def test_the_settings_for_tf32_are_recorded():
    described = Execution().describe(torch.device("cuda"))
    assert described["device"] == "cuda"
    assert isinstance(described["float32_matmul"], str)
    assert isinstance(described["float32_conv"], str)


def test_the_largest_seed(train_data, validation_data, recipe, tmp_path):
    train("sandwich_mlp", train_data, validation_data, recipe, tmp_path, seed=2**63 - 1)
