"""On a GPU: the same certificates, verdicts of the same attacks, nothing moved that need not be."""

from pathlib import Path

import pytest
import torch
from evaluation.small_runs import contents, labelled_as_predicted, sandwich, small_run

from timm_lipschitz.evaluation import dry_run, evaluate

pytestmark = pytest.mark.cuda


def test_a_run_on_a_gpu_repeats_itself_and_says_so(tmp_path: Path) -> None:
    run = small_run(tmp_path / "a", device="cuda")
    small_run(tmp_path / "b", device="cuda")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    numeric = run.record.numeric
    assert (numeric.device, numeric.tf32_matmul, numeric.tf32_cudnn, numeric.autocast) == ("cuda", False, False, False)
    assert run.run_info.hardware.accelerator == torch.cuda.get_device_name()


def test_certificates_agree_with_the_cpu(tmp_path: Path) -> None:
    images = labelled_as_predicted(sandwich())
    on_cpu, on_gpu = (
        evaluate(sandwich(), images, ["l2:0.1"], run_dir=tmp_path / device, device=device) for device in ("cpu", "cuda")
    )
    assert on_gpu.images.radius == pytest.approx(on_cpu.images.radius, rel=1e-9)


def test_a_dry_run_knows_the_memory_of_a_batch() -> None:
    model = sandwich()
    assert dry_run(model, labelled_as_predicted(model), ["l2:0.5"], ["pgdl2"], device="cuda").batch_memory
