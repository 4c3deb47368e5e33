"""``export``: what is written is the library's, and says what was proved."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from cli.calls import call

from timm_lipschitz import fold
from timm_lipschitz.certification import sdp
from timm_lipschitz.cli import _exporting
from timm_lipschitz.models.loading import file_sha256, load_model


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_certificate(trained: Path, tmp_path: Path, dtype: str) -> None:
    out = tmp_path / "a proof"
    result = call("export", "certificate", f"local-dir:{trained}", "--out", out, "--dtype", dtype)

    assert (result.exit_code, result.stderr) == (0, "")
    model = load_model(f"local-dir:{trained}").model
    found, expected = sdp.check_bundle(out), sdp.sdp_certificate(model, dtype=getattr(torch, dtype))
    assert found.lipschitz == expected.lipschitz <= model.lipschitz * (1 + 1e-6)  # type: ignore[operator]
    for one, other in zip(found.weights, expected.weights, strict=True):
        assert np.array_equal(one, other)
    assert f"Lipschitz constant <= {sdp.decimal_up(found.lipschitz)}" in result.stdout
    claim = json.loads((out / "certificate.json").read_text())
    assert (claim["model"], claim["nominal_lipschitz"]) == (f"local-dir:{trained}", 1.0)
    assert f"python '{out / 'check_certificate.py'}'" in result.stdout
    done = subprocess.run([sys.executable, out / "check_certificate.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith(f"proved: Lipschitz constant <= {sdp.decimal_up(found.lipschitz)} (L2)")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights(trained: Path, tmp_path: Path, dtype: str) -> None:
    out = tmp_path / "weights"
    result = call("export", "weights", f"local-dir:{trained}", "--out", out, "--dtype", dtype)

    assert (result.exit_code, result.stderr) == (0, "")
    folded = fold(load_model(f"local-dir:{trained}").model.to(getattr(torch, dtype)))
    stored = safetensors.torch.load_file(out / "weights.safetensors")
    assert stored.keys() == folded.state_dict().keys()
    assert all(torch.equal(value, folded.state_dict()[name]) for name, value in stored.items())
    description = json.loads((out / "network.json").read_text())
    assert (description["in_shape"], description["num_classes"], description["lipschitz"]) == ([3, 8, 8], 3, 1.0)
    assert description["weights_sha256"] == file_sha256(out / "weights.safetensors")
    assert len(description["layers"]) == len(folded.layers)
    program = torch.export.load(out / "network.pt2").module()
    for count in (1, 3, 100):
        x = torch.rand(count, 3, 8, 8, dtype=getattr(torch, dtype))
        torch.testing.assert_close(program(x), folded(x))


def test_onnx(trained: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    out = tmp_path / "onnx"
    result = call("export", "onnx", f"local-dir:{trained}", "--out", out)

    assert result.exit_code == 0, result.output
    session = onnxruntime.InferenceSession(out / "model.onnx")
    folded = fold(load_model(f"local-dir:{trained}").model)
    for count in (1, 3, 100):
        x = torch.rand(count, 3, 8, 8)
        (logits,) = session.run(["logits"], {"images": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), folded(x), rtol=1e-5, atol=1e-6)


def test_onnx_that_computes_something_else_is_not_written(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    monkeypatch.setattr(_exporting, "onnx_deviation", lambda stored, folded: float("nan"))
    result = call("export", "onnx", f"local-dir:{trained}", "--out", tmp_path / "out")

    assert result.exit_code == 1
    assert "differ from the network's by nan" in result.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_onnx_without_its_packages(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    result = call("export", "onnx", f"local-dir:{trained}", "--out", tmp_path / "out")

    assert result.exit_code == 1
    assert "pip install 'timm_lipschitz[onnx]'" in result.stderr


def test_a_network_too_large_for_matrices(tmp_path: Path) -> None:
    result = call("export", "certificate", "sandwich_cnn", "--out", tmp_path / "out")

    assert result.exit_code == 1
    assert "no trained weights" in result.stderr
    assert "matrix entries, more than the" in result.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_a_model_without_a_bound(without_a_bound: str, tmp_path: Path) -> None:
    result = call("export", "certificate", without_a_bound, "--out", tmp_path / "out")

    assert result.exit_code == 1
    assert "Sequential is not certifiable" in result.stderr


def test_a_folder_that_cannot_be_written(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = call("export", "certificate", f"local-dir:{trained}", "--out", tmp_path / "file" / "out")

    assert result.exit_code == 1
    assert "cannot write to" in result.stderr
