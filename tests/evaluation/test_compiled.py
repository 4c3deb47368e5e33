"""--compile: the same verdicts through torch.compile, said in the record; certificates never go through it."""

import shutil
from pathlib import Path

import pytest
import torch
from evaluation.small_runs import labelled_as_predicted, sandwich

from timm_lipschitz.attacks import _torchattacks
from timm_lipschitz.errors import InvalidInputError, RunDirectoryError
from timm_lipschitz.evaluation import evaluate

needs_a_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="torch.compile needs a C++ compiler on a CPU",
)


@pytest.mark.slow
@needs_a_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch")
def test_compiled_verdicts_are_those_of_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_torchattacks, "_APGD_STEPS", 6)
    model = sandwich()
    images = labelled_as_predicted(model)
    arguments = {"threat_models": ["l2:0.05", "l2:0.5"], "attacks": ["apgd"], "batch_size": 4}
    plain = evaluate(model, images, **arguments, run_dir=tmp_path / "plain")
    compiled = evaluate(model, images, **arguments, run_dir=tmp_path / "compiled", compile=True)
    assert (plain.record.numeric.compiled, compiled.record.numeric.compiled) == (False, True)
    assert compiled.record.results == plain.record.results
    assert compiled.images.radius.tolist() == plain.images.radius.tolist()
    assert compiled.attacks.distance == pytest.approx(plain.attacks.distance, rel=1e-3, nan_ok=True)
    with pytest.raises(RunDirectoryError, match=r"numeric\.compiled: False before, True now"):
        evaluate(model, images, **arguments, run_dir=tmp_path / "plain", resume=True, compile=True)


def test_the_network_is_what_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For every size of a batch at once, and where there is a compiler or not."""
    seen: list[tuple[torch.nn.Module, dict]] = []

    def noting(network: torch.nn.Module, **options: object) -> torch.nn.Module:
        seen.append((network, options))
        return network

    monkeypatch.setattr(torch, "compile", noting)
    monkeypatch.setattr(_torchattacks, "_STEPS", 4)
    model = sandwich()
    evaluate(model, labelled_as_predicted(model), ["l2:0.5"], ["pgdl2"], run_dir=tmp_path, compile=True)
    ((network, options),) = seen
    assert type(network).__name__ == "FoldedNetwork"
    assert options == {"dynamic": True}


def test_a_compiler_that_fails_is_an_error_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(network: torch.nn.Module, **options: object):
        def run(images: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no working C++ compiler\n and so on")

        return run

    monkeypatch.setattr(torch, "compile", failing)
    model = sandwich()
    with pytest.raises(InvalidInputError, match=r"cannot be compiled here \(RuntimeError: no working C\+\+ compiler\)"):
        evaluate(model, labelled_as_predicted(model), ["l2:0.5"], ["pgdl2"], run_dir=tmp_path, compile=True)
    assert list(tmp_path.iterdir()) == []
