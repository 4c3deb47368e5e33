"""Certificates of images, end to end, against exact arithmetic and against search."""

from __future__ import annotations

import copy
import importlib
import math
from fractions import Fraction

import pytest
import torch
from certification.networks import LinearNet, grid_images, linear_net, random_images, small_net
from torch import Tensor, nn

from timm_lipschitz import certify, fold
from timm_lipschitz.certification import Certifier, network_bound
from timm_lipschitz.errors import InvalidInputError, NonFiniteError, NotCertifiableError, OutOfMemoryError
from timm_lipschitz.folding import explicit_steps
from timm_lipschitz.layers import Flatten, LipschitzSequential, SandwichConv2d, SandwichFourierConv2d


def predicted(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images).argmax(dim=1)


# Exactness


@pytest.mark.parametrize("seed", range(5))
def test_radius_of_a_linear_network_is_the_exact_distance_and_never_more(seed: int) -> None:
    model, images = linear_net(seed), grid_images(20)
    labels = torch.arange(20) % 3
    found = certify(model, images, labels)
    certain = 0
    for image, label, radius in zip(images, labels.tolist(), found.radius.tolist(), strict=True):
        exact = model.exact_squared_radius(image, label)
        if exact is None:
            assert radius == 0
            continue
        certain += 1
        assert Fraction(radius) ** 2 <= exact
        assert radius >= math.sqrt(exact) - 1e-13  # nothing but the rounding of numbers near 1 is taken off
    assert certain >= 3


def test_point_at_the_radius_lies_on_the_boundary_of_a_linear_network() -> None:
    model, images = linear_net(), grid_images(20)
    labels = predicted(model, images)
    radius = certify(model, images, labels).radius
    for image, label, r in zip(images, labels.tolist(), radius.tolist(), strict=True):
        differences = model.weight.detach()[label] - model.weight.detach()
        steps = [-r * d.reshape(image.shape) / d.norm() for j, d in enumerate(differences) if j != label]
        inside = torch.stack([image + (1 - 1e-9) * step for step in steps])
        beyond = torch.stack([image + (1 + 1e-9) * step for step in steps])
        assert (predicted(model, inside) == label).all()
        assert (predicted(model, beyond) != label).any()


def test_a_batch_that_does_not_fit_into_memory_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    model, room, sizes = small_net().eval(), 3, []
    images = random_images(model, 10)
    whole, run = certify(model, images), Certifier._run

    def scarce(certifier: Certifier, images: Tensor) -> list[Tensor]:
        if len(images) > room:
            raise torch.OutOfMemoryError("no more")
        sizes.append(len(images))
        return run(certifier, images)

    monkeypatch.setattr(Certifier, "_run", scarce)
    halved = certify(model, images)
    assert sizes == [3, 2, 3, 2]
    assert torch.equal(halved.prediction, whole.prediction)
    torch.testing.assert_close(halved.radius, whole.radius, rtol=1e-10, atol=1e-12)
    room = 0
    with pytest.raises(OutOfMemoryError, match="memory runs out even on one image alone: no more"):
        certify(model, images)


@pytest.mark.parametrize("normalized_head", [True, False])
@pytest.mark.parametrize("gamma", [0.5, 3.0])
def test_no_point_inside_the_radius_changes_the_prediction(gamma: float, normalized_head: bool) -> None:
    model = small_net(lipschitz=gamma, normalized_head=normalized_head)
    images = random_images(model, 6)
    found = certify(model, images)
    assert (found.radius > 0).all()
    generator = torch.Generator().manual_seed(3)
    for image, label, radius in zip(images, found.prediction.tolist(), found.radius.tolist(), strict=True):
        directions = torch.randn(64, *image.shape, dtype=torch.float64, generator=generator)
        leaf = image[None].clone().requires_grad_()
        logits = model(leaf)[0]
        for j in range(3):  # steepest descent of every margin
            if j != label:
                directions[j] = -torch.autograd.grad(logits[label] - logits[j], leaf, retain_graph=True)[0][0]
        unit = directions / directions.flatten(1).norm(dim=1)[:, None, None, None]
        for fraction in (0.5, 1 - 1e-9):
            assert (predicted(model, image + fraction * radius * unit) == label).all()


def test_radius_is_margin_over_the_pairs_constant() -> None:
    model = small_net(lipschitz=2.0)
    images = random_images(model, 10)
    labels = torch.arange(10) % 3
    with torch.no_grad():
        logits = model(images)
    pairs = network_bound(explicit_steps(model)).pairs
    found = certify(model, images, labels)
    assert torch.equal(found.prediction, logits.argmax(dim=1))
    for i, y in enumerate(labels.tolist()):
        others = [j for j in range(3) if j != y]
        assert float(found.margin[i]) == pytest.approx(
            min(float(logits[i, y] - logits[i, j]) for j in others), abs=1e-12
        )
        expected = min(float(logits[i, y] - logits[i, j]) / float(pairs[y, j]) for j in others)
        assert float(found.radius[i]) == pytest.approx(max(expected, 0.0), abs=1e-10)
    assert found.lipschitz == network_bound(explicit_steps(model)).logits


def test_pair_constants_are_never_worse_than_the_general_formula() -> None:
    model = small_net(lipschitz=2.0)
    found = certify(model, random_images(model, 10))
    assert (found.radius >= found.margin / (math.sqrt(2) * 2.0) * (1 - 1e-9)).all()


# Wrong, tied and broken


def test_wrong_labels_and_ties_have_radius_zero() -> None:
    rows = torch.tensor([[1.0, 2.0], [1.0, 2.0], [-1.0, 0.0]], dtype=torch.float64)
    model = LinearNet(rows, torch.zeros(3, dtype=torch.float64)).eval()
    images = torch.full((3, 1, 1, 2), 0.5, dtype=torch.float64)
    found = certify(model, images, torch.tensor([0, 1, 2]))
    assert found.radius.tolist() == [0, 0, 0]
    assert found.margin.tolist()[:2] == [0, 0]
    assert found.margin[2] < 0
    assert certify(model, images).radius.tolist() == [0, 0, 0]  # the prediction is one of two


@pytest.mark.parametrize("name", ["stages.0.weight", "stages.1.bias", "head.fc.weight", "head.layers.0.bias"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(name: str, value: float) -> None:
    model = small_net()
    with torch.no_grad():
        model.get_parameter(name).view(-1)[0] = value
    with pytest.raises(NonFiniteError, match=rf"{name.rpartition('.')[2]}: 1 of \d+ values are NaN or infinite"):
        certify(model, random_images(model, 2))


def test_logits_that_are_not_finite_are_refused_naming_the_image() -> None:
    model = LinearNet(
        torch.tensor([[1e308, 1e308], [0.0, 0.0]], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    )
    images = torch.tensor([[0.1, 0.1], [0.2, 0.3], [1.0, 1.0]], dtype=torch.float64).reshape(3, 1, 1, 2)
    with pytest.raises(NonFiniteError, match=r"logits of image 2 are not finite \(\[inf, 0\.0\]\)"):
        certify(model.eval(), images)


def test_free_parameters_that_overflow_are_refused() -> None:
    model = small_net()
    with torch.no_grad():
        model.head.layers[0].weight.mul_(1e200)
    with pytest.raises(
        NonFiniteError, match=r"SandwichLinear\.weight: values up to .* too large for the Cayley transform"
    ):
        certify(model, random_images(model, 2))


# Modes and modules


def test_training_mode_is_refused() -> None:
    model = small_net().train()
    with pytest.raises(NotCertifiableError, match=r"LipschitzNet is in training mode; call model\.eval\(\)"):
        certify(model, random_images(model, 2))


def test_a_single_module_in_training_mode_is_refused_where_it_matters() -> None:
    model = small_net(drop_rate=0.5)
    images = random_images(model, 2)
    certify(model, images)
    model.head.drop.train()
    with pytest.raises(NotCertifiableError, match=r"'head\.drop' drops activations"):
        certify(model, images)


@pytest.mark.parametrize("module", [nn.BatchNorm2d(3), nn.GELU(), nn.LeakyReLU(2.0), nn.MultiheadAttention(4, 1)])
def test_module_without_a_bound_is_named(module: nn.Module) -> None:
    model = small_net()
    images = random_images(model, 2)
    model.stages[0] = module.eval()
    with pytest.raises(NotCertifiableError, match=rf"'stages\.0' \({type(module).__name__}\) is not certifiable"):
        certify(model, images)


def test_model_without_a_bound_is_named_whatever_it_lacks() -> None:
    import timm

    images = torch.rand(1, 3, 32, 32)
    for model in (nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)), timm.create_model("resnet18", num_classes=2)):
        with pytest.raises(NotCertifiableError, match=rf"{type(model).__name__} is not certifiable"):
            certify(model.eval(), images)


def test_network_without_a_classifier_is_refused() -> None:
    model = small_net(num_classes=0)
    with pytest.raises(NotCertifiableError, match="cannot be written as one matrix"):
        certify(model, random_images(model, 1))
    with pytest.raises(InvalidInputError, match="at least 2 classes, the logits have 1"):
        certify(small_net(num_classes=1), random_images(model, 1))


def test_model_is_left_as_it_was() -> None:
    model = small_net()
    before = copy.deepcopy(model.state_dict())
    certify(model, random_images(model, 3))
    assert not model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# Precision


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_dtype_is_certified_in_float64(dtype: torch.dtype) -> None:
    model = small_net().to(dtype)
    images = random_images(model, 5).float()
    found, expected = certify(model, images), certify(copy.deepcopy(model).double(), images)
    assert found.radius.dtype == found.margin.dtype == torch.float64
    assert torch.equal(found.radius, expected.radius)
    assert torch.equal(found.margin, expected.margin)
    assert found.lipschitz == expected.lipschitz


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_has_no_part_in_it(dtype: torch.dtype) -> None:
    model = small_net().float()
    images = random_images(model, 5).float()
    expected = certify(model, images)
    with torch.autocast("cpu", dtype):
        found = certify(model, images)
    assert torch.equal(found.radius, expected.radius)
    assert found.lipschitz == expected.lipschitz


def test_weights_without_orthonormal_rows_have_smaller_radii(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transform that misses by a little loosens the certificate; one that misses by much is refused."""
    from timm_lipschitz.layers import explicit, sandwich_fourier
    from timm_lipschitz.layers.cayley import cayley_factors

    # The forward keeps the exact transform, and is another function by as much
    monkeypatch.setattr("timm_lipschitz.certification.certifier.require_same_function", lambda *arguments: None)

    def rows_longer_by(factor: float) -> None:
        for module in (explicit, sandwich_fourier):
            monkeypatch.setattr(module, "cayley_factors", lambda x, v: [factor * one for one in cayley_factors(x, v)])

    model = small_net()
    images = random_images(model, 3)
    exact, exact_pairs = certify(model, images), network_bound(explicit_steps(model)).pairs
    rows_longer_by(1 + 1e-4)
    loose = certify(model, images)
    assert 1 + 1e-4 < loose.lipschitz / exact.lipschitz < 1 + 1e-2
    off = ~torch.eye(3, dtype=torch.bool)
    assert (network_bound(explicit_steps(model)).pairs[off] > exact_pairs[off] * (1 + 5e-4)).all()
    rows_longer_by(1.001)
    with pytest.raises(NotCertifiableError, match="damaged"):
        certify(model, images)


# Arguments


@pytest.mark.parametrize("batch_size", [0, -5])
def test_batches_of_no_image_are_refused(batch_size: int) -> None:
    model = small_net()
    with pytest.raises(InvalidInputError, match=f"batch_size must be at least 1, not {batch_size}"):
        certify(model, random_images(model, 3), batch_size=batch_size)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_batches_do_not_matter_and_progress_is_told(batch_size: int) -> None:
    model = small_net()
    images = random_images(model, 7)
    told: list[tuple[int, int]] = []
    found = certify(model, images, batch_size=batch_size, progress=lambda done, total: told.append((done, total)))
    torch.testing.assert_close(found.radius, certify(model, images).radius, rtol=1e-12, atol=1e-13)
    assert told == [(min(end, 7), 7) for end in range(batch_size, 7 + batch_size, batch_size)]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8])
def test_labels_of_any_integer_type(dtype: torch.dtype) -> None:
    model = small_net()
    images = random_images(model, 4)
    labels = predicted(model, images)
    assert torch.equal(certify(model, images, labels.to(dtype)).radius, certify(model, images).radius)


def test_images_and_labels_are_checked() -> None:
    model = small_net()
    images = random_images(model, 2)
    for bad, message in (
        ((images * 255).to(torch.uint8), "divide 0..255 pixels by 255"),
        (images + 0.5, r"outside \[0, 1\]"),
        (images[:, :, :3], r"images are 3x4, .* expected 4x4"),
        (images.expand(-1, 3, -1, -1), "images have 3 channels"),
        (images[:0], "no images"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            certify(model, bad)
    for labels, message in (
        (torch.tensor([0, 3]), r"label 3 of sample 1 is outside 0\.\.2"),
        (torch.tensor([0.0, 1.0]), "labels must be integers"),
        (torch.tensor([0]), "1 labels for 2 images"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            certify(model, images, labels)


def test_float32_is_refused_where_cudnn_chooses_how_a_convolution_rounds() -> None:
    module = importlib.import_module("timm_lipschitz.certification.certifier")  # the function has the module's name
    explicit = fold(LipschitzSequential(SandwichConv2d(1, 2), Flatten(), in_shape=(1, 4, 4))).layers
    fourier = fold(LipschitzSequential(SandwichFourierConv2d(1, 2, img_size=4), Flatten(), in_shape=(1, 4, 4))).layers
    with pytest.raises(NotCertifiableError, match="'float32' on a GPU"):
        module.require_plain_convolutions(explicit, torch.device("cuda"))
    module.require_plain_convolutions(explicit, torch.device("cpu"))
    module.require_plain_convolutions(fourier, torch.device("cuda"))
