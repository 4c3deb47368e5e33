"""The families to compare with: certified by their measured bound, folded, and refused where there is none."""

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_contract import jacobian, relative_error
from models.narrow import narrow_model
from torch import Tensor, nn

from timm_lipschitz import certify, fold
from timm_lipschitz.certification import network_bound
from timm_lipschitz.certification.sdp import sdp_certificate
from timm_lipschitz.errors import CheckpointError, InvalidInputError, NotCertifiableError
from timm_lipschitz.folding import explicit_steps
from timm_lipschitz.layers import NormalizedLinear, OrthogonalLinear

FAMILIES = ["orthogonal_cnn", "aol_cnn", "sll_resnet"]


def images(count: int, *shape: int) -> Tensor:
    return torch.rand(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("normalized_head", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_no_slope_exceeds_the_measured_bound_nor_the_nominal_one(name: str, normalized_head: bool) -> None:
    model = narrow_model(name, img_size=8, in_chans=1, num_classes=3, lipschitz=2.0, normalized_head=normalized_head)
    bound = network_bound(explicit_steps(model))
    assert bound.backbone <= 2.0 * (1 + 1e-9) if normalized_head else bound.logits <= 2.0 * (1 + 1e-9)
    for image in images(4, 1, 8, 8):
        slopes = jacobian(model, image)
        assert torch.linalg.matrix_norm(slopes, 2) <= bound.logits
        assert (torch.cdist(slopes, slopes) <= bound.pairs).all()


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("arithmetic", ["real", "float64", "float32"])
def test_a_certificate_holds_against_the_steepest_way_down(name: str, arithmetic: str) -> None:
    model = narrow_model(name, img_size=8, in_chans=1, num_classes=3)
    x = images(4, 1, 8, 8)
    found = certify(model, x, arithmetic=arithmetic)  # type: ignore[arg-type]
    assert (found.radius > 0).any()
    executed = fold(model).float() if arithmetic == "float32" else fold(model)
    dtype = next(executed.parameters()).dtype
    for image, label, radius in zip(x, found.prediction, found.radius, strict=True):
        point = image.clone()
        for _ in range(8):  # the smallest margin in the ball, by projected descent
            point.requires_grad_()
            logits = model(point[None])[0]
            margin = logits[label] - logits[torch.arange(3) != label].max()
            (gradient,) = torch.autograd.grad(margin, point)
            step = (point - gradient / gradient.norm().clamp_min(1e-12) * radius).detach() - image
            point = image + step * (radius / step.norm().clamp_min(1e-300)).clamp(max=1) * (1 - 1e-9)
        assert executed(point[None].to(dtype)).argmax() == label


@settings(max_examples=25)
@given(seed=st.integers(0, 2**16), name=st.sampled_from(FAMILIES), scale=st.sampled_from([0.01, 1.0, 30.0]))
def test_the_error_bound_covers_what_folding_and_float32_change(seed: int, name: str, scale: float) -> None:
    model = narrow_model(name, img_size=8, in_chans=1, num_classes=3, seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    x = images(5, 1, 8, 8)
    with torch.no_grad():
        expected, folded = model(x), fold(model)(x)
        single = fold(model).float()(x.float()).double()
    pairs = [(0, 1), (0, 2), (1, 2)]

    def gaps(logits: Tensor) -> Tensor:
        return torch.stack([logits[:, i] - logits[:, j] for i, j in pairs], 1)

    error = certify(model, x).error
    assert (error < 1e-6 * (1 + expected.abs().amax(1))).all()
    assert ((gaps(folded) - gaps(expected)).abs().amax(1) <= 2 * error).all()  # both are executed
    ball = certify(model, x, arithmetic="float32").ball_error
    assert ((gaps(single) - gaps(expected)).abs().amax(1) <= ball + 2 * error).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_reparameterize_model_of_timm_gives_the_same_function(name: str) -> None:
    from timm.utils import reparameterize_model

    model = narrow_model(name, in_chans=1, num_classes=3, img_size=16)
    x = images(2, 1, 16, 16)
    with torch.no_grad():
        assert relative_error(reparameterize_model(model)(x), model(x)) < 1e-12


@pytest.mark.parametrize("name", ["aol_cnn", "sll_resnet"])
def test_one_set_of_weights_is_certified_at_every_size(name: str) -> None:
    model = narrow_model(name, in_chans=1, num_classes=3)
    bounds = []
    for size in (28, 32, 45):
        model.set_img_size(size)
        x = images(2, 1, size, size)
        bounds.append(certify(model, x).lipschitz)
        with torch.no_grad():
            assert relative_error(fold(model)(x), model(x)) < 1e-12
    assert bounds == pytest.approx([bounds[0]] * 3, rel=1e-9)


@pytest.mark.parametrize("name", ["aol_cnn", "sll_resnet"])
def test_the_grid_of_the_papers_larger_images(name: str) -> None:
    model = timm.create_model(name, img_size=64, pool_grid=16, device="meta")
    assert model(torch.empty(1, 3, 64, 64, device="meta")).shape == (1, 10)
    expected = {"aol_cnn": 10_885_290, "sll_resnet": 165_335_302}[name]  # reported: 11M and 165M with 200 classes
    assert sum(p.numel() for p in model.parameters()) == expected


def test_pooling_is_the_papers_average_scaled_to_norm_one() -> None:
    model = timm.create_model("sll_resnet", device="meta")
    x = images(2, 3, 32, 32)
    expected = nn.functional.avg_pool2d(x, 4, divisor_override=4)
    torch.testing.assert_close(model.head.pool(x), expected)


def test_heads() -> None:
    assert isinstance(timm.create_model("sll_resnet", device="meta").get_classifier(), OrthogonalLinear)
    head = timm.create_model("sll_resnet", device="meta", normalized_head=True).get_classifier()
    assert isinstance(head, NormalizedLinear)


@pytest.mark.parametrize("name", ["orthogonal_cnn", "aol_cnn"])
def test_the_matrix_inequality_is_proved_for_feedforward_rivals(name: str) -> None:
    model = narrow_model(name, img_size=8, in_chans=1, num_classes=3, lipschitz=2.0)
    found = sdp_certificate(model, (1, 8, 8))
    assert network_bound(explicit_steps(model)).logits <= found.lipschitz * (1 + 1e-6) <= 2.0 * (1 + 1e-5)


def test_residual_networks_have_no_matrix_inequality_of_feedforward_ones() -> None:
    with pytest.raises(NotCertifiableError, match=r"stages\.0\.conv adds its input to its output"):
        sdp_certificate(narrow_model("sll_resnet", img_size=8, in_chans=1), (1, 8, 8))


def test_a_plain_network_has_no_bound_and_is_refused_by_name() -> None:
    model = narrow_model("plain_cnn", img_size=8, in_chans=1)
    assert model.lipschitz is None
    for refused in (lambda: certify(model, images(1, 1, 8, 8)), lambda: fold(model)):
        with pytest.raises(NotCertifiableError, match=r"PlainNet is not certifiable: .* no known Lipschitz bound"):
            refused()
    with pytest.raises(InvalidInputError, match=r"lipschitz must be None, not 1\.0"):
        timm.create_model("plain_cnn", lipschitz=1.0, device="meta")
    with pytest.raises(TypeError, match="normalized_head"):
        timm.create_model("plain_cnn", normalized_head=True, device="meta")


def test_weights_of_other_channels_are_refused_though_their_shapes_fit(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    arguments = {"img_size": 8, "num_classes": 3}
    safetensors.torch.save_file(timm.create_model("sll_resnet", **arguments).state_dict(), weights)
    overlay = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(weights), "num_classes": 3}}
    timm.create_model("sll_resnet", **arguments, **overlay)
    with pytest.raises(CheckpointError, match="of images with 3 channels, and in_chans is 1"):
        timm.create_model("sll_resnet", in_chans=1, **arguments, **overlay)


@pytest.mark.parametrize("name", ["sll_resnet", "sll_resnet_medium", "sll_resnet_large", "sll_resnet_xlarge"])
def test_features_reach_the_last_stage(name: str) -> None:
    model = timm.create_model(name, features_only=True, device="meta")
    stages = len(timm.create_model(name, device="meta").stages)
    assert model.feature_info.module_name()[-1] == f"stages.{stages - 1}"
