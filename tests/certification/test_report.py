"""The soundness report says what the certificates rest on, and nothing nicer."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from certification.networks import random_images, small_net
from cli.calls import call
from torch import nn

from timm_lipschitz import certify
from timm_lipschitz.certification import network_bound
from timm_lipschitz.certification.certifier import Arithmetic
from timm_lipschitz.certification.report import (
    SoundnessReport,
    _two_digits_up,
    _up,
    render_report,
    share_down,
    soundness_report,
)
from timm_lipschitz.errors import InvalidInputError
from timm_lipschitz.folding import explicit_steps
from timm_lipschitz.layers import ContractionHead, Flatten, LipschitzSequential, register_bound, registered


def report(model: nn.Module, title: str = "mine") -> SoundnessReport:
    images = torch.rand(3, *(model.in_shape if hasattr(model, "in_shape") else (1, 4, 4)), dtype=torch.float64)
    return soundness_report(model, images, certify(model, images), title=title)


def test_bounds_are_those_of_the_certificates() -> None:
    model = small_net(lipschitz=2.0)
    found = report(model)
    bound = network_bound(explicit_steps(model))
    assert found.rigorous == bound.logits
    assert 0 < found.lower <= found.rigorous
    assert found.tightness == found.lower / found.rigorous
    assert [layer.name for layer in found.layers][:4] == ["rescale", "stages.0", "stages.1", "stages.1"]
    assert found.layers[-1].so_far >= found.rigorous * (1 - 1e-9)
    for layer in found.layers:
        if layer.kind.startswith("sandwich"):
            assert layer.nominal == 1.0
            assert layer.defect is not None
            assert Fraction(layer.defect) >= Fraction(layer.bound) - 1
            assert abs(layer.defect) < 1e-9
        else:
            assert layer.defect is None
    assert found.layers[0].nominal == pytest.approx(math.sqrt(2))
    assert found.asserted == ()
    assert "real" in found.guarantee


@pytest.mark.parametrize("arithmetic", ["real", "float64", "float32"])
def test_rounding_by_layer_adds_up_to_what_certificates_count(arithmetic: Arithmetic) -> None:
    model = small_net()
    images = random_images(model, 1).float()
    certificates = certify(model, images, arithmetic=arithmetic)
    found = soundness_report(model, images, certificates, title="mine")
    error = certificates.error if arithmetic == "real" else certificates.ball_error
    assert sum(part.error for part in found.rounding) == pytest.approx(error.item(), rel=1e-3)
    assert [part.name for part in found.rounding] == ["stages.0", "stages.1", "head.layers.0", "head.fc"]
    assert found.rounding[0].operation == "Circulant 1x4x4 to 3x4x4, relu"
    assert all(part.error > 0 for part in found.rounding)
    for format in ("md", "html"):
        page = render_report(found, format)
        for part in found.rounding:
            assert part.operation in page
            assert _two_digits_up(part.error) in page
        where = "in float64" if arithmetic == "real" else f"as executed in {arithmetic}, within its radius"
        assert f"at most {_two_digits_up(error.item())} {where}" in page


@pytest.mark.parametrize("value", [0.0, 1.0, 1.01e-7, 9.96e-5, 1.25, -3.14e-9, 2.0**-1074, 1e300])
def test_errors_are_rounded_up_to_two_digits(value: float) -> None:
    shown = _two_digits_up(value)
    assert value <= float(shown) <= value + abs(value) * 0.1 + 1e-323
    assert re.fullmatch(r"-?\d\.\de[+-]\d+", shown)


def test_settings_are_told() -> None:
    model, flags = small_net(), torch.backends.cuda.matmul
    images, before = random_images(model, 1), flags.allow_tf32
    certificates = certify(model, images)
    try:
        flags.allow_tf32 = True
        with torch.autocast("cpu"):
            found = dict(soundness_report(model, images, certificates, title="mine").flags)
    finally:
        flags.allow_tf32 = before
    assert (found["TF32 in matrix products"], found["Autocast"]) == ("on", "on")
    plain = soundness_report(model, images, certificates, title="mine")
    assert dict(plain.flags)["Autocast"] == "off"
    for format in ("md", "html"):
        for label, value in plain.flags:
            assert label in render_report(plain, format)
            assert value in render_report(plain, format)


def test_lower_bound_is_not_below_what_one_gradient_shows() -> None:
    model = small_net()
    images = random_images(model, 3)
    found = soundness_report(model, images, certify(model, images), title="mine")
    jacobian = torch.autograd.functional.jacobian(lambda x: model(x[None])[0], images[0])
    assert isinstance(jacobian, torch.Tensor)
    assert found.lower >= 0.9 * float(torch.linalg.matrix_norm(jacobian.reshape(3, -1), 2))


def test_asserted_bounds_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registered, "_RULES", {})
    register_bound(nn.Hardtanh, lambda module, in_shape: 1)
    model = LipschitzSequential(Flatten(), nn.Hardtanh(), ContractionHead(4, 3), in_shape=(1, 2, 2)).eval()
    found = report(model)
    assert found.layers[1].kind == "Hardtanh, asserted"
    assert found.layers[1].nominal is None
    for format in ("md", "html"):
        assert "which nothing has checked: 1 (Hardtanh: 1)" in render_report(found, format)


@pytest.mark.parametrize("format", ["md", "html"])
def test_pages_hold_every_layer_and_no_markup_of_others(format: str) -> None:
    found = report(small_net(), title="<script>alert(1)</script> | `a` [b](javascript:c)")
    page = render_report(found, format)
    assert "<script>" not in page
    assert "http://" not in page
    for layer in found.layers:
        assert layer.name in page
        assert layer.shapes in page
    assert repr(found.rigorous) in page
    if format == "md":
        assert "](" not in page
        assert [line.count("|") for line in page.splitlines() if line.startswith("| stages")] == [8] * 3 + [5] * 2
    with pytest.raises(InvalidInputError, match=r"\.html or \.md, not \.pdf"):
        render_report(found, "pdf")


@pytest.mark.parametrize("value", [1.0, 1 + 2.0**-52, 1 + 5e-13, 0.1, 1 / 3, math.pi * 1e-9, 12345.678901234567, 0.0])
def test_bounds_are_not_rounded_down(value: float) -> None:
    assert value <= float(_up(value)) <= value * (1 + 1e-12)


def test_shares_are_not_rounded_up() -> None:
    assert [share_down(part, 1.0) for part in (0.0, 0.9999, 0.12345, 1.0, 2.0)] == [
        "0.0",
        "99.9",
        "12.3",
        "100.0",
        "100.0",
    ]
    assert share_down(0.0, 0.0) == "100.0"
    assert share_down(0.117 * (1 - 1e-16), 1.0) == "11.6", "exactly, not after a product that rounds up"


@pytest.mark.parametrize("suffix", ["html", "md"])
def test_command(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / "new" / f"report.{suffix}"
    result = call("certify", "sandwich_mlp.mnist", "--data", "mnist", "--limit", 20, "--report", file)
    assert result.exit_code == 0, result.output
    page = file.read_text(encoding="utf-8")
    measured = re.findall(r"measured ([\d.]+)", result.stdout)[0]
    assert float(measured) == pytest.approx(float(re.findall(r"([\d.]+), pixels to logits", page)[0]), rel=1e-8)
    assert "sandwich_mlp.mnist" in page


def test_command_refuses_other_formats_before_it_computes(tmp_path: Path) -> None:
    result = call("certify", "sandwich_mlp.mnist", "--data", "mnist", "--report", tmp_path / "report.pdf")
    assert result.exit_code == 1
    assert "give a file that ends in .html or .md" in result.stderr
