"""Defects of torchattacks that the catalogue works around."""

import importlib.util

import pytest
import torch
import torchattacks
from attacks.tiny_models import Linear, grey_images, predicted

from timm_lipschitz.attacks import CATALOGUE, Problem, _torchattacks, run_attack
from timm_lipschitz.errors import AttackError
from timm_lipschitz.threat_model import ThreatModel

FAR = ThreatModel.parse("l2:9")


def test_cw_on_negative_logits():
    images = grey_images(4)
    model, shifted = Linear(5), Linear(5, shift=-100.0)
    labels = predicted(model, images)
    bare = torchattacks.CW(shifted.eval(), c=10, steps=50, lr=0.1)(images, labels)
    assert torch.equal(predicted(shifted, bare), labels)  # the defect: not one success
    expected, result = (run_attack(net, images, labels, FAR, "cw", seed=0) for net in (model, shifted))
    assert result.success.all()
    assert torch.allclose(result.distance, expected.distance, rtol=1e-2)


def test_cw_moves_black_and_white_pixels():
    model = Linear(5)
    images = (grey_images(4) > 0.5).float()
    labels = predicted(model, images)
    bare = torchattacks.CW(model.eval(), c=10, steps=50, lr=0.1)(images, labels)
    assert torch.equal(bare, images)  # the defect: every pixel sits at infinity
    result = run_attack(model, images, labels, FAR, "cw", seed=0)
    assert result.success.all()


@pytest.mark.parametrize("name", ["mifgsm", "fab", "deepfool"])
def test_no_success_without_a_gradient(name, few_steps):
    """DeepFool divides by the norm of the gradient: its NaN are discarded and counted."""
    model, images = Linear(3), grey_images(2)
    threat_model = ThreatModel.parse("linf:0.1" if name == "mifgsm" else "l2:0.1")
    with torch.no_grad():
        model.linear.weight.zero_()
        model.linear.bias.copy_(torch.arange(3.0))
    result = run_attack(model, images, predicted(model, images), threat_model, name, seed=0)
    assert not result.success.any()
    assert result.discarded == (2 if name == "deepfool" else 0)


def test_fab_reports_distances_beyond_eps():
    model, images = Linear(5), grey_images(3)
    labels = predicted(model, images)
    near, far = (run_attack(model, images, labels, ThreatModel.parse(f"l2:{eps}"), "fab", seed=0) for eps in (0.01, 9))
    assert not near.success.any()
    assert torch.equal(near.distance, far.distance)


def test_sub_attack_enables_gradients_itself():
    model, images = Linear(5).requires_grad_(False), grey_images(2)
    (sub_attack,) = CATALOGUE["pgdl2"].build(Problem(ThreatModel.parse("l2:1"), 5, (1, 6, 6))).sub_attacks
    with torch.no_grad():
        points = sub_attack.start(model, images.device)(images, predicted(model, images), 0)
    assert not torch.equal(points, images)


def test_missing_library(monkeypatch):
    model, images = Linear(3), grey_images(1)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AttackError, match=r"torchattacks is not installed: pip install 'timm-lipschitz\[attacks\]'"):
        run_attack(model, images, predicted(model, images), FAR, "pgdl2", seed=0)


def test_names_do_not_pass_off_the_ten_step_autoattack():
    for row in _torchattacks.TORCHATTACKS:
        assert "autoattack" not in row.name or row.name == "torchattacks-autoattack-10step"


class _ColumnsFirst(Linear):
    """Its gradient lies in memory as that of a Fourier layer does: batch last."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.requires_grad:
            images = images.clone()
            images.register_hook(lambda gradient: gradient.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0))
        return super().forward(images)


@pytest.mark.parametrize("name", ["pgdl2", "fgsm", "apgd"])
def test_gradients_that_lie_in_memory_otherwise(name, few_steps):
    images = grey_images(4)
    model, same = _ColumnsFirst(5), Linear(5)
    labels = predicted(model, images)
    at = FAR if name != "fgsm" else ThreatModel.parse("linf:0.5")
    if name == "pgdl2":
        with pytest.raises(RuntimeError, match="view size is not compatible"):  # the defect
            torchattacks.PGDL2(model.eval(), steps=1)(images, labels)
    found, expected = (run_attack(net, images, labels, at, name, seed=0) for net in (model, same))
    assert torch.equal(found.success, expected.success)
