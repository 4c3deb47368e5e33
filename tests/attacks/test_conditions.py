"""An attack leaves no trace: modes, gradients, random generators and precision settings, also after an error."""

import random

import numpy as np
import pytest
import torch
from attacks.faulty import fake_attack
from attacks.tiny_models import SHAPE, Mlp, grey_images, predicted, shape_for

from timm_lipschitz.attacks import attack_names, run_attack
from timm_lipschitz.threat_model import ThreatModel

UNITS = [
    torch.backends.cuda.matmul,
    torch.backends.cudnn.conv,
    torch.backends.cudnn.rnn,
    torch.backends.mkldnn.matmul,
    torch.backends.mkldnn.conv,
    torch.backends.mkldnn.rnn,
]
L2 = ThreatModel.parse("l2:0.2")


def setting(shape=SHAPE):
    """A model with every mix of modes, gradients and flags; images and labels that it gets right."""
    model, images = Mlp(10, shape), grey_images(3, shape)
    labels = predicted(model, images)
    model.train()
    model.dropout.eval()
    model.hidden.bias.requires_grad_(False)
    model.hidden.weight.grad = torch.ones_like(model.hidden.weight)
    return model, images, labels


def snapshot(model):
    modes = {name: module.training for name, module in model.named_modules()}
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return modes, flags, gradients


def check_unchanged(model, before):
    modes, flags, gradients = snapshot(model)
    assert (modes, flags) == before[:2]
    for name, gradient in gradients.items():
        assert gradient is before[2][name]
    assert torch.equal(model.hidden.weight.grad, torch.ones_like(model.hidden.weight))
    assert model.head.weight.grad is None


def generators():
    numpy_state = np.random.get_state(legacy=False)
    return random.getstate(), str(numpy_state), torch.get_rng_state().tolist()


@pytest.mark.parametrize(("norm", "name"), [(norm, name) for norm in ("l2", "linf") for name in attack_names(norm)])
def test_every_attack_restores_model_and_generators(norm, name, few_steps, capsys):
    model, images, labels = setting(shape_for(name))
    before, random_before = snapshot(model), generators()
    run_attack(model, images, labels, ThreatModel.parse(f"{norm}:0.01"), name, seed=3)
    check_unchanged(model, before)
    assert generators() == random_before
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_restores_after_an_error_and_ctrl_c(error):
    model, images, labels = setting()
    before, random_before = snapshot(model), generators()
    precisions = [unit.fp32_precision for unit in UNITS]

    def fail(x, y):
        torch.rand(3), np.random.rand(), random.random()
        raise error("stop")

    with pytest.raises(error, match="stop"):
        run_attack(model, images, labels, L2, fake_attack(fail), seed=3)
    check_unchanged(model, before)
    assert generators() == random_before
    assert [unit.fp32_precision for unit in UNITS] == precisions


def test_model_is_frozen_in_evaluation_mode_during_the_attack():
    model, images, labels = setting()
    seen = {}

    def look(x, y):
        seen["training"] = any(module.training for module in model.modules())
        seen["gradients"] = any(parameter.requires_grad for parameter in model.parameters())
        return x

    run_attack(model, images, labels, L2, fake_attack(look), seed=3)
    assert seen == {"training": False, "gradients": False}


@pytest.fixture
def precision_settings():
    """Whatever a test does to torch's precision settings, undone."""
    matmul, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    precisions = [unit.fp32_precision for unit in UNITS]
    yield
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = cudnn
    for unit, precision in zip(UNITS, precisions, strict=True):
        unit.fp32_precision = precision


@pytest.mark.parametrize("mixed", [False, True])
def test_no_tf32_and_no_autocast_during_the_attack(mixed, precision_settings):
    torch.set_float32_matmul_precision("medium")
    if mixed:  # settings that contradict each other: torch then refuses to read the global one
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    before = [unit.fp32_precision for unit in UNITS]
    model, images, labels = setting()
    seen = {}

    def look(x, y):
        seen["units"] = {unit.fp32_precision for unit in UNITS}
        seen["global"] = torch.get_float32_matmul_precision()
        seen["tf32"] = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
        seen["autocast"] = torch.is_autocast_enabled("cpu")
        seen["dtype"] = model(x).dtype
        return x

    with torch.autocast("cpu", dtype=torch.bfloat16):
        run_attack(model, images, labels, L2, fake_attack(look), seed=3)
        assert torch.is_autocast_enabled("cpu")
    assert seen == {"units": {"ieee"}, "global": "highest", "tf32": False, "autocast": False, "dtype": torch.float32}
    assert [unit.fp32_precision for unit in UNITS] == before


@pytest.mark.parametrize("name", attack_names("l2"))
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_callers_gradient_mode_does_not_matter(name, context, few_steps):
    model, images, labels = setting()
    threat_model = ThreatModel.parse("l2:0.3")
    expected = run_attack(model, images, labels, threat_model, name, seed=3)
    with context():
        result = run_attack(model, images.clone(), labels.clone(), threat_model, name, seed=3)
    assert torch.equal(result.adversarial, expected.adversarial)
    assert torch.equal(result.success, expected.success)


@pytest.mark.cuda
def test_cuda_generator_is_restored(few_steps):
    model, images, labels = setting()
    model.cuda()
    before = torch.cuda.get_rng_state()
    result = run_attack(model, images, labels, L2, "autoattack", seed=3)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert result.adversarial.device == images.device
