"""The error bounds of executed networks: against rational arithmetic, against what is computed, and not vacuous."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from certification.exact import logits as exact_logits
from certification.networks import random_images, small_net
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from timm_lipschitz import certify, fold
from timm_lipschitz.certification import Certifier
from timm_lipschitz.certification.report import soundness_report
from timm_lipschitz.certification.rounding import FLOAT32, FLOAT64, network_rounding, without_scales
from timm_lipschitz.errors import InvalidInputError, NonFiniteError, NotCertifiableError
from timm_lipschitz.folding import explicit_steps
from timm_lipschitz.layers import (
    ACTIVATIONS,
    Affine,
    Circulant,
    ContractionHead,
    Convolution,
    Dense,
    Flatten,
    Flattening,
    LipschitzSequential,
    Operator,
    Pointwise,
    Pooling,
    SandwichLinear,
    Scaling,
    SpaceToDepth,
    multiply,
)
from timm_lipschitz.layers.folded import sum_length
from timm_lipschitz.layers.fourier import kernel_spectrum
from timm_lipschitz.layers.full_float32 import full_float32
from timm_lipschitz.layers.operators import product_error
from timm_lipschitz.layers.segments import segments


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class DenseNet(nn.Module):
    """Explicit steps with given numbers, on images (B, 1, 1, features)."""

    lipschitz = 1.0
    in_chans = 1

    def __init__(self, steps: list, features: int) -> None:
        super().__init__()
        self.steps = steps
        self.img_size = (1, features)
        self.unused = nn.Parameter(torch.zeros(1))

    def explicit(self, in_shape: tuple[int, ...]) -> list:
        return self.steps


def dense_net(
    seed: int, widths: tuple[int, ...] = (5, 4, 6, 3), activation: str = "relu", spread: float = 0.0, bias: float = 1.0
) -> nn.Module:
    from timm_lipschitz.layers import Sandwich, cayley

    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    steps: list = [Affine(Flattening((1, 1, widths[0])), None)]
    for p, q in pairwise(widths[:-1]):
        rows = cayley(normal(q, q + p))
        scale = spread * (2 * torch.rand(q, generator=generator, dtype=torch.float64) - 1) if spread else None
        steps.append(Sandwich(Dense(rows[:, :q]), Dense(rows[:, q:]), activation, bias * normal(q), scale))
    steps.append(Affine(Dense(cayley(normal(widths[-1], sum(widths[-2:])))[:, widths[-1] :]), normal(widths[-1])))
    return DenseNet(steps, widths[0]).eval()


def images_of(model: nn.Module, count: int, seed: int = 0) -> Tensor:
    return random_images(model, count, seed)


def executed(model: DenseNet, images: Tensor, dtype: torch.dtype) -> Tensor:
    modules = [module for segment in segments(model.steps) for module in segment.to_modules()]
    with torch.no_grad():
        return nn.Sequential(*modules).to(dtype)(images.to(dtype)).double()


def distance(found: list[float], exact: list[Fraction]) -> float:
    return math.sqrt(sum((Fraction(a) - b) ** 2 for a, b in zip(found, exact, strict=True)))


def bound_at(model: nn.Module, images: Tensor) -> Tensor:
    """Of the vector of float64 logits."""
    return certify(model, images).error / math.sqrt(2)


@pytest.mark.parametrize("spread", [0.0, 2.0, 20.0])
@pytest.mark.parametrize("bias", [0.0, 1.0, 1e6])
@pytest.mark.parametrize("activation", ["relu", "hardtanh"])
def test_logits_are_within_the_bound_of_rational_arithmetic(activation: str, bias: float, spread: float) -> None:
    for seed in range(6):
        model = dense_net(seed, activation=activation, spread=spread if activation == "hardtanh" else 0.0, bias=bias)
        images = images_of(model, 3, seed)
        bounds = bound_at(model, images)
        for image, found, bound in zip(images, executed(model, images, torch.float64), bounds.tolist(), strict=True):
            assert distance(found.tolist(), exact_logits(model.steps, image)) <= bound
            assert bound < 1e-12 * (1 + bias) * math.exp(spread)  # not vacuous: the logits are as large


@pytest.mark.parametrize("bias", [0.0, 1.0, 1e4])
@pytest.mark.parametrize(
    ("spread", "widths", "seeds"), [(0.0, (5, 4, 6, 3), 8), (20.0, (5, 4, 6, 3), 8), (0.0, (384, 260, 3), 1)]
)
def test_executed_logits_are_within_the_bound_anywhere_in_the_ball(
    bias: float, spread: float, widths: tuple[int, ...], seeds: int
) -> None:
    generator = torch.Generator().manual_seed(5)
    largest = 0.0
    for seed in range(seeds):
        model = dense_net(seed, widths, "hardtanh" if spread else "relu", spread, bias)
        certifier = Certifier(model, "float32")
        images = images_of(model, 2, seed).float().double()
        _, _, _, *exact = certifier._run(images)
        for radius in (0.0, 0.3, 5.0) if seeds > 1 else (0.3,):
            constant, slope = certifier._in_ball.over_ball(exact, torch.full([2], radius, dtype=torch.float64))
            bounds = constant + slope * radius
            steps = torch.randn(seeds, *images.shape, generator=generator, dtype=torch.float64)
            steps = radius * (1 - 1e-6) * steps / steps.flatten(2).norm(dim=2)[..., None, None, None]
            for points in (images + steps).float():
                found = executed(model, points, torch.float32)
                for point, values, bound in zip(points, found, bounds.tolist(), strict=True):
                    error = distance(values.tolist(), exact_logits(model.steps, point))
                    assert error <= bound
                    largest = max(largest, error / bound)
    if bias <= 1 and seeds > 1:  # within a factor of a thousand of what happens, unless activations hide it
        assert largest > 1e-3


def test_the_ball_starts_at_the_image_and_grows_with_the_radius() -> None:
    """Where nothing moves, what is known of the image counts: half of what its norm would give, with half of ReLU."""
    model = dense_net(0, (64, 300, 300, 3), bias=0.1)
    certifier = Certifier(model, "float32")
    images = images_of(model, 5).float()
    _, _, _, *exact = certifier._run(images)
    error, _ = certifier._in_ball.at(exact)
    still = torch.zeros(5, dtype=torch.float64)
    constant, slope = certifier._in_ball.over_ball(exact, still)
    assert (constant >= error).all()
    assert (constant < 1.01 * error).all()
    assert slope > 0
    blind = [size.clone() for size in exact]
    for part, size in zip(certifier._in_ball.parts, blind, strict=False):
        assert (size[:, 1] < part.absolute * size[:, 0] * (1 - 1e-9)).all()
        size[:, 1] = part.absolute * size[:, 0]
    by_norms, same_slope = certifier._in_ball.over_ball(blind, still)
    assert (by_norms > 1.2 * constant).all()
    assert same_slope == slope


@given(st.integers(0, 10**6), st.floats(0, 3))
@settings(max_examples=30, deadline=None)
def test_sizes_of_what_is_near_are_bounded_by_what_they_grow_to(seed: int, distance: float) -> None:
    model = dense_net(seed % 7, (9, 8, 6, 3))
    rounding = network_rounding(model.steps, without_scales(model.steps), FLOAT32)
    for index, part in enumerate(rounding.parts):
        h, step = randn(1, part.moduli.shape[0], seed=seed), randn(1, part.moduli.shape[0], seed=seed + 1)
        step = step * (distance / step.norm())
        exact = torch.stack([h.norm(), (h.abs() @ part.moduli).norm()])
        assert (part.moduli >= 0).all()
        assert ((exact <= part.sizes(h)) & (part.sizes(h) <= exact * (1 + 1e-6))).all()
        moved = torch.full([1], distance * (1 + 1e-12), dtype=torch.float64)
        assert (part.sizes(h + step) <= rounding._grown(index, part.sizes(h), moved) * (1 + 1e-8)).all()


# Operators


def operators() -> dict[str, Operator]:
    spectrum = kernel_spectrum(randn(3, 2, 3, 3), 6, 4)
    odd = kernel_spectrum(randn(3, 2, 3, 3), 5, 7)
    strided = kernel_spectrum(randn(3, 4, 3, 3), 6, 4)
    return {
        "dense": Dense(randn(4, 9)),
        "wide dense": Dense(randn(2, 300)),
        "dense in parts": Dense(randn(3, 1536)),
        "pointwise": Pointwise(randn(3, 2), (4, 5)),
        "circulant": Circulant(spectrum, (6, 4)),
        "circulant of odd size": Circulant(odd, (5, 7)),
        "convolution": Convolution(randn(3, 2, 3, 3), (5, 4), "zeros", 1),
        "circular": Convolution(randn(3, 2, 3, 3), (5, 4), "circular", 1),
        "pooling": Pooling((2, 7, 5), 3),
        "scaling": Scaling(1 / 3, (4,)),
        "space to depth": SpaceToDepth((2, 4, 6)),
        "flattening": Flattening((2, 3, 3)),
        "strided circulant": multiply([SpaceToDepth((1, 12, 8)), Circulant(strided, (6, 4))])[0],
        "strided": multiply([SpaceToDepth((1, 6, 4)), Convolution(randn(3, 4, 3, 3), (3, 2), "zeros", 1)])[0],
    }  # fmt: skip


@pytest.mark.parametrize("name", operators())
def test_rounding_of_an_operator_bounds_what_float32_adds(name: str) -> None:
    """In float64 the operator is exact next to float32."""
    operator = operators()[name]
    module = operator.to_module(None)
    bound = operator.rounding(FLOAT32.unit, operator.norm_bound())
    x = randn(50, *operator.in_shape).float()
    with torch.no_grad():
        exact = module.double()(x.double())
        found = module.float()(x).double()
    errors = (found - exact).flatten(1).norm(dim=1) / x.double().flatten(1).norm(dim=1)
    assert (errors <= bound).all()
    if bound > 0:
        assert errors.max() > bound / 2000  # it is no vacuous bound


@pytest.mark.parametrize("name", operators())
def test_absolute_norm_bounds_the_operator_of_moduli(name: str) -> None:
    operator = operators()[name]
    matrix = operator.apply(
        torch.eye(math.prod(operator.in_shape), dtype=torch.float64).reshape(-1, *operator.in_shape)
    )
    moduli = matrix.flatten(1).T.abs()
    norm = float(torch.linalg.matrix_norm(matrix.flatten(1), 2))
    assert operator.absolute_norm() >= norm * (1 - 1e-12)
    if not isinstance(operator, Circulant) and "circulant" not in name:  # these have moduli in the frequency domain
        assert operator.absolute_norm() >= float(torch.linalg.matrix_norm(moduli, 2)) * (1 - 1e-12)


def chains() -> dict[str, list[Operator]]:
    a, b = kernel_spectrum(randn(4, 3, 3, 3), 4, 6), kernel_spectrum(randn(5, 4, 3, 3, seed=1), 4, 6)
    return {
        "dense": [Scaling(0.7, (6,)), Dense(randn(5, 6)), Dense(randn(3, 5, seed=1))],
        "circulants": [Circulant(a, (4, 6)), Circulant(b, (4, 6))],
        "circulant, strided": [Circulant(a, (4, 6)), SpaceToDepth((4, 4, 6)), Pointwise(randn(3, 16), (2, 3))],
        "pointwise, circulant": [Pointwise(randn(3, 2), (4, 6)), Circulant(a, (4, 6))],
        "circulant, dense": [Circulant(a, (4, 6)), Flattening((4, 4, 6)), Dense(randn(5, 96))],
        "pointwise, strided": [
            Pointwise(randn(3, 2), (4, 6)), SpaceToDepth((3, 4, 6)), Pointwise(randn(3, 12), (2, 3)),
        ],
        "circular kernels": [
            Convolution(randn(2, 2, 3, 3), (6, 6), "circular", 1),
            Convolution(randn(3, 2, 3, 3, seed=1), (6, 6), "circular", 1),
        ],
        "convolution, dense": [
            Convolution(randn(3, 2, 3, 3), (4, 4), "zeros", 1), Flattening((3, 4, 4)), Dense(randn(5, 48)),
        ],
        "pooling, dense": [Pooling((2, 7, 5), 3), Flattening((2, 3, 3)), Dense(randn(4, 18))],
    }  # fmt: skip


@pytest.mark.parametrize("name", chains())
def test_products_are_within_their_error_of_the_factors_one_by_one(name: str) -> None:
    """In float64 both ways: twice the bound and their own rounding is what they may differ by."""
    chain = chains()[name]
    x = torch.eye(math.prod(chain[0].in_shape), dtype=torch.float64).reshape(-1, *chain[0].in_shape)
    one_by_one, product = x, x
    for operator in chain:
        one_by_one = operator.apply(one_by_one)
    for operator in multiply(chain):
        product = operator.apply(product)
    norm = math.prod(operator.absolute_norm() for operator in chain)
    missed = float(torch.linalg.matrix_norm((one_by_one - product).flatten(1), 2))
    error = product_error(chain)
    assert missed <= error + sum(op.rounding(FLOAT64.unit, op.absolute_norm()) for op in chain) * norm
    assert error < 1e-11 * norm


def lost(m: int) -> Tensor:
    """(m,) whose square sums to ``1 + (m - 1) u`` and a bit less: added one by one to 1, all the others are lost."""
    entries = torch.full([m], 2.0**-26.5 * (1 - 1e-5), dtype=torch.float64)
    entries[0] = 1.0
    return entries


def apart(m: int) -> dict[str, list[Operator]]:
    """Two operators that are multiplied, m products a sum, with others between them that take no sums, or commute."""
    column, row = lost(m)[:, None], lost(m)[None]
    corner = torch.kron(row, torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64))
    return {
        "scaling": [Dense(column), Scaling(1.0, (m,)), Dense(row)],
        "flattening": [Pointwise(column, (1, 1)), Flattening((m, 1, 1)), Dense(row)],
        "space to depth": [Pointwise(column, (2, 2)), SpaceToDepth((m, 2, 2)), Pointwise(corner, (1, 1))],
        "pooling": [Pointwise(column, (2, 2)), Pooling((m, 2, 2), 1), Flattening((m, 1, 1)), Dense(row)],
    }


@pytest.mark.parametrize("name", apart(1))
def test_sums_of_factors_that_are_not_neighbours_are_counted(name: str) -> None:
    m = 512
    chain = apart(m)[name]
    pooled = 2.0 if name == "pooling" else 1.0  # four pixels over the root of four
    found = torch.ones(1, *chain[0].in_shape, dtype=torch.float64)
    for operator in multiply(chain):
        found = operator.apply(found)
    exact = sum((Fraction(entry) ** 2 for entry in lost(m).tolist()), Fraction(0))
    missed = abs(float(Fraction(float(found)) / Fraction(pooled) - exact))
    assert missed > 100 * FLOAT64.unit  # however libraries sum: not what 8 roundings an operator explain
    assert missed <= product_error(chain)


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_modulus_norm_is_a_close_upper_bound(seed: int, rows: int, columns: int) -> None:
    from timm_lipschitz.layers.operators.rounding import modulus_norm

    matrix = randn(rows, columns, seed=seed)
    exact = float(torch.linalg.matrix_norm(matrix.abs(), 2))
    assert exact * (1 - 1e-12) <= modulus_norm(matrix) <= 1.05 * exact


@pytest.mark.parametrize("rows", [[[0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]], [[1e200, 1e-200]], [[1e-310, 0.0]]])
def test_modulus_norm_of_zeros_and_extremes(rows: list[list[float]]) -> None:
    from timm_lipschitz.layers.operators.rounding import modulus_norm

    matrix = torch.tensor(rows, dtype=torch.float64)
    assert modulus_norm(matrix) >= max(abs(value) for row in rows for value in row)
    assert modulus_norm(matrix) <= 1.001 * max(abs(value) for row in rows for value in row) + 1e-300


class InnerSizes(TorchDispatchMode):
    """The number of products in the longest sum of any product of matrices that is executed."""

    longest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func._schema.name
        if name in ("aten::mm", "aten::bmm", "aten::matmul"):
            self.longest = max(self.longest, args[0].shape[-1])
        elif name in ("aten::addmm", "aten::baddbmm"):
            self.longest = max(self.longest, args[1].shape[-1])
        elif name == "aten::sum":
            self.longest = max(self.longest, args[0].shape[args[1][0]])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("features", [1, 100, 256, 257, 384, 512, 784, 1021, 3136, 4096])
@pytest.mark.parametrize("bias", [True, False])
def test_a_folded_matrix_rounds_no_more_often_than_is_counted(features: int, bias: bool) -> None:
    operator = Dense(randn(3, features))
    module = operator.to_module(randn(3) if bias else None)
    x = randn(2, features, seed=1)
    with InnerSizes() as seen, torch.no_grad():
        y = module(x)
    assert torch.allclose(y, operator.apply(x, module.bias), rtol=0, atol=1e-11)
    parts = features // sum_length(features)
    assert parts * sum_length(features) == features
    assert seen.longest == sum_length(features)
    assert seen.longest + parts == operator.roundings
    if features in (384, 512, 784, 3136, 4096):
        assert operator.roundings <= 300


@pytest.mark.parametrize("name", operators())
def test_roundings_are_those_of_the_modules(name: str) -> None:
    """No module sums more products than its operator says, nor the operator more than it or its transpose has."""
    operator = operators()[name]
    with InnerSizes() as seen, torch.no_grad():
        operator.to_module(None)(randn(2, *operator.in_shape))
    if "circulant" in name:  # the transforms are products, too, and counted by themselves
        transforms = 2 * max(operator.out_shape[1:])
        assert seen.longest <= max(operator.roundings, transforms)
    else:
        assert seen.longest <= operator.roundings


@pytest.mark.parametrize("images", [2, 40])
def test_products_at_each_frequency_round_no_more_often_than_is_counted(images: int) -> None:
    """Channels outnumber pixels, so that the products are longer sums than the transforms."""
    plain = Circulant(kernel_spectrum(randn(3, 20, 3, 3), 2, 2), (2, 2))
    (strided,) = multiply([SpaceToDepth((8, 4, 4)), Circulant(kernel_spectrum(randn(3, 32, 3, 3), 2, 2), (2, 2))])
    for operator, additions in ((plain, 0), (strided, 1)):  # of the even columns and the odd ones
        with InnerSizes() as seen, torch.no_grad():
            operator.to_module(None)(randn(images, *operator.in_shape))
        assert seen.longest + additions == operator.roundings


# Networks


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_within_its_error(activation: str) -> None:
    """float32 against float64, as a layer uses it; softplus against what it stands for, without its threshold."""
    from timm_lipschitz.certification.rounding import ACTIVATION_ERRORS, SOFTPLUS_STEP

    relative, absolute = ACTIVATION_ERRORS.get(activation, (0.0, 0.0))
    v = torch.cat([torch.linspace(-40, 40, 20001), torch.logspace(-12, 2, 5000), -torch.logspace(-12, 2, 5000)])
    module = ACTIVATIONS[activation].module()
    exact = torch.log1p(torch.exp(v.double())) if activation == "softplus" else module.double()(v.double())
    found = module.float()(v).double()
    step = SOFTPLUS_STEP if activation == "softplus" else 0.0
    unit = FLOAT32.unit
    assert ((found - exact).abs() <= relative * unit * exact.abs() + absolute * unit + step + 1e-38).all()


def test_softplus_of_float64_steps_down_by_no_more_than_is_counted() -> None:
    from timm_lipschitz.certification.rounding import SOFTPLUS_STEP

    v = torch.tensor([20.0, math.nextafter(20.0, 21.0)], dtype=torch.float64)
    below, above = nn.Softplus()(v).tolist()
    assert 0 < below - above < SOFTPLUS_STEP


@pytest.mark.parametrize("arithmetic", ["real", "float64", "float32"])
@pytest.mark.parametrize("normalized_head", [True, False])
def test_statements_are_named_and_ordered(arithmetic: str, normalized_head: bool) -> None:
    model = small_net(normalized_head=normalized_head)
    images = random_images(model, 6).float()
    found, real = certify(model, images, arithmetic=arithmetic), certify(model, images)
    assert found.arithmetic == arithmetic
    assert (found.error > 0).all()
    assert (found.error < 1e-9).all()
    if arithmetic == "real":
        assert (found.ball_error == 0).all()
    else:
        assert (found.ball_error > 0).all()
        assert (found.radius < real.radius).all()
        assert (found.radius > real.radius - (1e-3 if arithmetic == "float32" else 1e-9)).all()


def test_float32_predictions_are_those_of_the_folded_network() -> None:
    model = small_net()
    images = random_images(model, 40).float()
    found = certify(model, images, arithmetic="float32")
    with torch.no_grad():
        executed = fold(model).float()(images).double()
    assert torch.equal(found.prediction, executed.argmax(dim=1))
    assert found.arithmetic == "float32"


class Doubling(nn.Module):
    """A layer that the package does not know."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_of_modules_with_an_asserted_bound_only_the_real_network_is_spoken_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("timm_lipschitz.layers.registered._RULES", {Doubling: lambda module, shape: 2.0})
    torch.manual_seed(0)
    layers = [Flatten(), SandwichLinear(4, 6), Doubling(), SandwichLinear(6, 5), Doubling(), ContractionHead(5, 3)]
    model = LipschitzSequential(*layers, in_shape=(1, 2, 2)).double().eval()
    images = torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    found = certify(model, images)
    assert len(found.asserted) == 2
    # far above the rounding of the other layers
    assert ((found.error > 1e-11) & (found.error < 1e-6)).all()
    for arithmetic in ("float64", "float32"):
        with pytest.raises(NotCertifiableError, match=r"how every layer rounds, and of 2 \(Doubling: 2\) no more than"):
            certify(model, images, arithmetic=arithmetic)


def test_unknown_arithmetic_is_refused() -> None:
    model = small_net()
    with pytest.raises(InvalidInputError, match="arithmetic 'float16' is not known: use one of real, float64, float32"):
        certify(model, random_images(model, 1), arithmetic="float16")  # type: ignore[arg-type]


def test_weights_that_float32_cannot_hold_are_refused() -> None:
    model = dense_net(0, activation="hardtanh")
    model.steps[1].bias[:] = 1e39
    images = images_of(model, 1)
    assert torch.isfinite(certify(model, images).error).all()
    with pytest.raises(NonFiniteError, match=r"cannot be folded in float32: .*bias overflows"):
        certify(model, images, arithmetic="float32")


def test_what_might_overflow_is_not_certified() -> None:
    model = dense_net(0, activation="hardtanh")
    model.steps[1].bias[:] = 1e303
    assert (certify(model, images_of(model, 2)).radius == 0).all()


@pytest.mark.parametrize("mixed", [False, True])
def test_settings_of_precision_play_no_part_and_are_put_back(mixed: bool) -> None:
    """torch refuses to read its older settings where they contradict the newer ones, as "medium" makes them do."""
    matmul, cuda = torch.get_float32_matmul_precision(), torch.backends.cuda.matmul
    precisions = cuda.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
    model = small_net()
    images = random_images(model, 3).float()
    expected = certify(model, images, arithmetic="float32")
    try:
        torch.set_float32_matmul_precision("medium")
        if mixed:
            cuda.fp32_precision = "ieee"
        before = cuda.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
        found = certify(model, images, arithmetic="float32")
        flags = dict(soundness_report(model, images, found, title="mine").flags)
        after = cuda.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
    finally:
        torch.set_float32_matmul_precision(matmul)
        cuda.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision = precisions  # type: ignore[attr-defined]
    assert before == after == ("ieee" if mixed else "tf32", "bf16")
    assert flags["TF32 in matrix products"] == ("off" if mixed else "on")
    assert torch.equal(found.margin, expected.margin)
    assert torch.equal(found.radius, expected.radius)


@pytest.mark.parametrize("enabled", [True, False])
def test_no_convolution_is_transformed_first(enabled: bool) -> None:
    with torch.backends.nnpack.flags(enabled=enabled):
        with full_float32(torch.device("cpu")):
            assert not torch._C._get_nnpack_enabled()
        assert torch._C._get_nnpack_enabled() == enabled


def test_depth_does_not_blow_the_bound_up() -> None:
    """Layers' bounds multiply, not the norms of the matrices between activations, which are next to 2."""
    shallow, deep = (dense_net(0, widths=(4,) + (4,) * depth + (3,)) for depth in (5, 60))
    images = images_of(shallow, 3)
    assert (bound_at(deep, images) < 40 * bound_at(shallow, images)).all()


def test_constants_are_those_without_psi() -> None:
    model = dense_net(1, activation="hardtanh", spread=20.0)
    plain = without_scales(model.steps)
    unit = network_rounding(model.steps, plain, FLOAT64)
    assert all(part.relative < 1e-13 for part in unit.parts)
    assert explicit_steps(model) is model.steps
