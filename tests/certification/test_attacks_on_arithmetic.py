"""Attacks on the arithmetic: for each, the rule of real arithmetic is broken, and the certificate never is.

The rule: float64 logits, taken for exact, over the pairs' constants. A trial is one image under one statement: 3,000
next to the boundary, 6,000 with neighbouring floats, 5,000 with huge biases, 2,400 and more with log-scales, 2,400 with
denormals, and some thousand near-ties. Sources: Jin, Ohrimenko and Rubinstein (2022), "Getting a-round guarantees:
floating-point attacks on certified robustness"; Zombori et al. (2021), "Fooling a complete neural network verifier".
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import cast

import pytest
import torch
from certification.networks import LinearNet
from certification.test_rounding import DenseNet, dense_net, executed
from torch import Tensor, nn

from timm_lipschitz import certify, fold
from timm_lipschitz.certification import network_bound, radii
from timm_lipschitz.folding import explicit_steps
from timm_lipschitz.layers import Affine, Dense, Flattening, Sandwich

FORMATS = {"float64": torch.float64, "float32": torch.float32}


def two_classes(features: int, seed: int, size: float = 1.0) -> LinearNet:
    generator = torch.Generator().manual_seed(seed)
    entries = torch.randn(2, features + 1, generator=generator) * size  # float32 values
    return LinearNet(entries[:, :-1].double(), entries[:, -1].double()).eval()


def uniform(count: int, features: int, seed: int) -> Tensor:
    return torch.rand(count, 1, 1, features, generator=torch.Generator().manual_seed(seed))


def rule_of_real_arithmetic(model: nn.Module, images: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions and radii."""
    labels = logits.argmax(dim=1)
    return labels, radii(logits, labels, network_bound(explicit_steps(model)).pairs)[1]


def near_the_boundary(model: LinearNet, images: Tensor) -> Tensor:
    """Images moved to gaps of 1e-15 to 0.1 between the two logits, where they stay in [0, 1]."""
    w = (model.weight[0] - model.weight[1]).detach()
    gaps = images.double().flatten(1) @ w + (model.bias[0] - model.bias[1]).detach()
    sizes = 10.0 ** torch.linspace(-15, -1, len(images), dtype=torch.float64)
    return (images - ((gaps - sizes) / w.dot(w))[:, None, None, None] * w).clamp(0, 1)


def run_linear(model: LinearNet, images: Tensor, dtype: torch.dtype) -> Tensor:
    x = images.flatten(1).to(dtype)
    return (x @ model.weight.detach().to(dtype).T + model.bias.detach().to(dtype)).double()


def exact_square(x: Tensor, y: Tensor) -> Fraction:
    return sum(
        ((Fraction(a) - Fraction(b)) ** 2 for a, b in zip(x.flatten().tolist(), y.flatten().tolist(), strict=True)),
        Fraction(0),
    )


# Logits that were rounded


@pytest.mark.parametrize("features", [20, 100, 300])
def test_radius_beyond_the_exact_distance(features: int) -> None:
    """Images next to the boundary: the rounding of their logits is a part of the margin."""
    broken = 0
    for seed in range(10):
        model = two_classes(features, seed)
        images = near_the_boundary(model, uniform(100, features, seed))
        labels, naive = rule_of_real_arithmetic(model, images, run_linear(model, images, torch.float64))
        found = certify(model, images)
        for image, label, rule, radius in zip(
            images, labels.tolist(), naive.tolist(), found.radius.tolist(), strict=True
        ):
            exact = model.exact_squared_radius(image, label) or Fraction(0)
            broken += Fraction(rule) ** 2 > exact
            assert Fraction(radius) ** 2 <= exact
    assert broken > 10


# Neighbouring floats


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("features", [20, 100, 300])
def test_neighbouring_floats_at_the_boundary(features: int, name: str) -> None:
    """Around the nearest point of the boundary, every entry to one or the other neighbour at random."""
    dtype, generator = FORMATS[name], torch.Generator().manual_seed(0)
    broken = 0
    for seed in range(20):
        model = two_classes(features, seed)
        images = uniform(50, features, seed + 100)
        if name == "float64":  # there the rule's own margin, the rounding of norms, hides what is left
            images = near_the_boundary(model, images)
        labels, naive = rule_of_real_arithmetic(model, images, run_linear(model, images, torch.float64))
        radius = certify(model, images, arithmetic=name).radius  # type: ignore[arg-type]
        for rule, radii_ in ((True, naive), (False, radius)):
            for point, index in neighbours(model, images, labels, radii_, dtype, generator):
                flips = run_linear(model, point, dtype).argmax(dim=1) != labels[index]
                for x, i in zip(point[flips], index[flips].tolist(), strict=True):
                    inside = exact_square(x, images[i]) < Fraction(float(radii_[i])) ** 2
                    broken += rule and inside
                    assert rule or not inside
    assert broken > 10


def neighbours(model: LinearNet, images: Tensor, labels: Tensor, radius: Tensor, dtype: torch.dtype, generator):
    """Points (M, 1, 1, d) in ``dtype`` next to the ends of the radii, and whose they are, a few times."""
    w = (model.weight[0] - model.weight[1]).detach()
    signs = torch.where(labels == 0, 1.0, -1.0).double()[:, None, None, None]
    unit = torch.finfo(dtype).eps
    for step in range(6):
        end = images.double() - (radius * (1 - step * unit))[:, None, None, None] * signs * w / w.norm()
        nearest = end.to(dtype)
        up = torch.rand(nearest.shape, generator=generator) < 0.5
        moved = torch.where(up, torch.nextafter(nearest, nearest + 1), torch.nextafter(nearest, nearest - 1))
        keep = torch.rand(nearest.shape, generator=generator) < 0.5
        yield torch.where(keep, nearest, moved), torch.arange(len(images))


# Networks


def huge_bias(bias: float, seed: int, features: int = 6) -> DenseNet:
    """A linear classifier behind a ReLU layer that adds a bias, and one that takes it away again."""
    eye = torch.eye(features, dtype=torch.float64)
    half = math.sqrt(0.5) * eye
    vector = torch.full([features], bias, dtype=torch.float64)
    rows = torch.randn(3, features, generator=torch.Generator().manual_seed(seed)).double()
    steps = [
        Affine(Flattening((1, 1, features)), None),
        Sandwich(Dense(half), Dense(half), "relu", vector, None),
        Affine(Dense(eye), -vector),
        Sandwich(Dense(half), Dense(half), "identity", None, None),
        Affine(Dense(rows), None),
    ]
    return cast(DenseNet, DenseNet(steps, features).eval())


def attack(model: DenseNet, images: Tensor, labels: Tensor, radius: Tensor, dtype: torch.dtype, seed: int) -> Tensor:
    """Which images (B,) have a point of ``dtype`` inside ``radius`` where the executed network says another class.

    In random directions, and, as if the network were linear with the last matrix, straight to each other class.
    """
    generator = torch.Generator().manual_seed(seed)
    broken = torch.zeros(len(images), dtype=torch.bool)
    rows = model.steps[-1].operator.matrix
    for fraction in (0.0, 0.3, 0.9, 1 - 1e-6, 1.0):
        for attempt in range(6):
            steps = torch.randn(images.shape, generator=generator, dtype=torch.float64)
            if rows.shape[1] == images.shape[-1] and attempt < 3:
                steps = (rows[attempt] - rows[labels])[:, None, None, :] + 1e-9 * steps
            steps = steps / steps.flatten(1).norm(dim=1)[:, None, None, None]
            points = (images.double() + (fraction * radius)[:, None, None, None] * steps).to(dtype)
            inside = (points.double() - images.double()).flatten(1).norm(dim=1) < radius * (1 - 1e-12)
            broken |= inside & (executed(model, points, dtype).argmax(dim=1) != labels)
    return broken


@pytest.mark.parametrize("bias", [1e3, 1e4, 1e5, 1e6, 5e6])
def test_huge_biases_that_the_next_layer_takes_away(bias: float) -> None:
    naive_broken = 0
    for seed in range(5):
        model, images = huge_bias(bias, seed), uniform(100, 6, seed)
        labels, naive = rule_of_real_arithmetic(model, images, executed(model, images, torch.float64))
        naive_broken += int(attack(model, images, labels, naive, torch.float32, seed).sum())
        for name, dtype in FORMATS.items():
            found = certify(model, images, arithmetic=name)  # type: ignore[arg-type]
            assert not attack(model, images, found.prediction, found.radius, dtype, seed).any()
        assert (found.ball_error > bias * 2.0**-25).all()
        if bias >= 1e6:
            assert (found.radius == 0).all()  # float32 keeps nothing of a pixel
        assert (certify(model, images).radius > naive * (1 - 1e-3) - 1e-6).all()  # the numbers themselves are fine
    assert naive_broken > 0


@pytest.mark.parametrize("spread", [5.0, 20.0])
def test_log_scales(spread: float) -> None:
    naive_broken = 0
    for seed in range(10):
        model = dense_net(seed, widths=(5, 6, 6, 3), activation="hardtanh", spread=spread, bias=math.exp(-spread))
        images = torch.cat([uniform(60, 5, seed), bisected(model, uniform(200, 5, seed).double()).float()])
        labels, naive = rule_of_real_arithmetic(model, images, executed(model, images, torch.float64))
        naive_broken += int(attack(model, images, labels, naive, torch.float32, seed).sum())
        for name, dtype in FORMATS.items():
            found = certify(model, images, arithmetic=name)  # type: ignore[arg-type]
            assert not attack(model, images, found.prediction, found.radius, dtype, seed).any()
    assert naive_broken > 0


def bisected(model: DenseNet, ends: Tensor) -> Tensor:
    """Points next to a boundary, between pairs of points of different classes."""
    labels = executed(model, ends, torch.float64).argmax(dim=1)
    first, second = ends.chunk(2)
    chosen = labels[: len(first)] != labels[len(first) :]
    first, second, labels = first[chosen], second[chosen], labels[: len(first)][chosen]
    for _ in range(60):
        middle = (first + second) / 2
        same = (executed(model, middle, torch.float64).argmax(dim=1) == labels)[:, None, None, None]
        first, second = torch.where(same, middle, first), torch.where(same, second, middle)
    return first


@pytest.mark.parametrize("name", FORMATS)
def test_near_ties(name: str) -> None:
    """Images at the boundary of a network with ReLU, by bisection: rounding alone decides."""
    dtype, naive_broken = FORMATS[name], 0
    for seed in range(10):
        model = dense_net(seed, widths=(8, 12, 12, 3))
        images = bisected(model, uniform(400, 8, seed).double()).to(dtype)
        if len(images) == 0:
            continue
        predicted, naive = rule_of_real_arithmetic(model, images, executed(model, images, torch.float64))
        at_once = torch.cat([executed(model, image[None], dtype) for image in images]).argmax(dim=1)  # another order
        naive_broken += int(((at_once != predicted) & (naive > 0)).sum())
        found = certify(model, images, arithmetic=name)  # type: ignore[arg-type]
        assert not ((at_once != found.prediction) & (found.radius > 0)).any()
        assert not attack(model, images, found.prediction, found.radius, dtype, seed).any()
        assert (certify(model, images).radius[naive < 1e-17] == 0).all()
    assert naive_broken > 0 or name == "float64"


@pytest.mark.parametrize("size", [1e-150, 1e-165, 1e-300, 1e-308, 1e-312, 1e-320])
def test_denormals(size: float) -> None:
    """Weights whose squares, or that themselves, are below the smallest normal number."""
    certain = naive_broken = 0
    for seed in range(10):
        model = two_classes(20, seed)
        with torch.no_grad():
            model.weight.mul_(size)
            model.bias.mul_(size)
        images = uniform(20, 20, seed).double()
        logits = run_linear(model, images, torch.float64)
        naive = (logits[:, 0] - logits[:, 1]).abs() / torch.linalg.vector_norm(model.weight[0] - model.weight[1])
        for image, label, rule in zip(images, logits.argmax(dim=1).tolist(), naive.tolist(), strict=True):
            exact = model.exact_squared_radius(image, label)
            naive_broken += rule > 0 and (exact is None or not math.isfinite(rule) or Fraction(rule) ** 2 > exact)
        for name in ("real", "float64"):
            found = certify(model, images, arithmetic=name)  # type: ignore[arg-type]
            for image, label, radius in zip(images, found.prediction.tolist(), found.radius.tolist(), strict=True):
                exact = model.exact_squared_radius(image, label) or Fraction(0)
                assert Fraction(radius) ** 2 <= exact
                certain += radius > 0
    assert (certain > 300) == (size >= 1e-165)  # below, the bounds of what underflows are as large as the logits
    assert naive_broken > 20  # a plain norm's squares vanish, and logits are rounded to multiples of 2^-1074


def test_trained_network_at_its_boundary() -> None:
    """Between test images of different classes: float64 says one, float32 the other."""
    import timm

    from timm_lipschitz.data import load_dataset

    model = timm.create_model("sandwich_mlp.mnist", pretrained=True).eval()
    data = load_dataset("mnist", "test", None)
    images = data.pixels(slice(0, 400)).double()
    network, single = fold(model).double(), fold(model).float()
    with torch.no_grad():
        labels = network(images).argmax(dim=1)
        first, second = images[:200], images[200:]
        chosen = labels[:200] != labels[200:]
        first, second, labels = first[chosen], second[chosen], labels[:200][chosen]
        for _ in range(24):  # to about the spacing of float32
            middle = (first + second) / 2
            same = (network(middle).argmax(dim=1) == labels)[:, None, None, None]
            first, second = torch.where(same, middle, first), torch.where(same, second, middle)
        points = first.float()
        predicted, naive = rule_of_real_arithmetic(model, points, network(points.double()))
        flips = single(points).argmax(dim=1) != predicted
    assert (flips & (naive > 0)).any()
    found = certify(model, points, arithmetic="float32")
    assert (found.radius[flips] == 0).all()
    assert (found.radius <= naive).all()
