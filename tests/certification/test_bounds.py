"""Bounds of networks from their explicit steps."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from certification.networks import random_images, small_net
from hypothesis import given
from hypothesis import strategies as st
from layer_contract import jacobian
from layers.reference import cayley_pair
from torch import Tensor

from timm_lipschitz.certification import network_bound
from timm_lipschitz.certification.bounds import bound_text, step_bound
from timm_lipschitz.errors import NotCertifiableError
from timm_lipschitz.folding import explicit_steps
from timm_lipschitz.layers import (
    Affine,
    Circulant,
    Convolution,
    Dense,
    Flattening,
    MatrixOperator,
    Pointwise,
    Sandwich,
    Scaling,
    Step,
    cayley,
)
from timm_lipschitz.layers.fourier import kernel_spectrum
from timm_lipschitz.layers.orthogonal_kernel import factor_shape, orthonormal_kernel
from timm_lipschitz.models import LipschitzNet


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dense_sandwich(p: int, q: int, seed: int = 0, activation: str = "relu", factor: float = 1.0) -> Sandwich:
    rows = cayley(randn(q, q + p, seed=seed)) * factor
    return Sandwich(Dense(rows[:, :q]), Dense(rows[:, q:]), activation, None, None)


def distances(rows: Tensor) -> Tensor:
    """||w_i - w_j||, one pair after the other."""
    found = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for i, j in itertools.product(range(len(rows)), repeat=2):
        found[i, j] = math.sqrt(sum(float(value) ** 2 for value in rows[i] - rows[j]))
    return found


def head_rows(model: LipschitzNet) -> Tensor:
    """Rows of the last matrix that act on the last hidden layer."""
    weight = model.head.fc.weight.detach()
    if weight.shape[1] == model.head.num_features:  # last-layer normalisation
        return torch.stack([row / row.norm() for row in weight])
    return cayley_pair(weight)[1]


def close_from_above(found: Tensor | float, exact: Tensor | float) -> None:
    found, exact = (torch.as_tensor(value, dtype=torch.float64) for value in (found, exact))
    assert (found >= exact * (1 - 1e-14)).all()
    torch.testing.assert_close(found, exact, rtol=1e-8, atol=1e-10)


# Pair constants


@pytest.mark.parametrize("gamma", [1.0, 0.25, 3.0])
def test_pairs_behind_a_hidden_layer_take_the_smaller_of_two_formulas(gamma: float) -> None:
    model = small_net(lipschitz=gamma)
    with torch.no_grad():
        model.head.layers[0].weight.mul_(torch.linspace(0.05, 4, 6)[:, None])  # A far from a multiple of the identity
    rows = head_rows(model)
    a, b = cayley_pair(model.head.layers[0].weight.detach())
    direct = gamma * distances(rows)
    through = 2 * gamma * distances(rows @ a.T) * torch.linalg.matrix_norm(b, 2)
    close_from_above(network_bound(explicit_steps(model)).pairs, torch.minimum(direct, through))


def test_each_of_the_two_formulas_is_the_smaller_one_somewhere() -> None:
    def net(factor: float) -> list[Step]:
        # A = (1 - t) / (1 + t) and B = 2 sqrt(t) / (1 + t), times the identity
        eye = torch.eye(3, dtype=torch.float64)
        rows = cayley(torch.cat([0 * eye, math.sqrt(factor) * eye], dim=1))
        return [Sandwich(Dense(rows[:, :3]), Dense(rows[:, 3:]), "relu", None, None), Affine(Dense(randn(4, 3)), None)]

    direct = distances(randn(4, 3))
    close_from_above(network_bound(net(3 - 2 * math.sqrt(2))).pairs, direct)  # A = B: 2 A B = 1
    a, b = 0.5, math.sqrt(0.75)
    close_from_above(network_bound(net(1 / 3)).pairs, 2 * a * b * direct)
    assert 2 * a * b < 0.9


@pytest.mark.parametrize("gamma", [1.0, 0.25, 3.0])
def test_last_layer_normalisation_uses_distances_of_unit_rows(gamma: float) -> None:
    model = small_net(lipschitz=gamma, normalized_head=True)
    with torch.no_grad():
        model.head.fc.weight.mul_(torch.tensor([[0.1], [1.0], [50.0]]))
    rows = head_rows(model)
    assert distances(rows).max() > 1
    a, b = cayley_pair(model.head.layers[0].weight.detach())
    through = 2 * gamma * distances(rows @ a.T) * torch.linalg.matrix_norm(b, 2)
    bound = network_bound(explicit_steps(model))
    # the classifier stands behind a bound of gamma, not of sqrt(gamma): the second scaling comes before it
    close_from_above(bound.pairs, torch.minimum(gamma * distances(rows), through))
    close_from_above(bound.logits, gamma * torch.linalg.matrix_norm(rows, 2))


@pytest.mark.parametrize("normalized_head", [True, False])
def test_pairs_scale_with_the_bound(normalized_head: bool) -> None:
    models = (small_net(lipschitz=gamma, normalized_head=normalized_head) for gamma in (1.0, 4.0))
    one, four = (network_bound(explicit_steps(model)) for model in models)
    torch.testing.assert_close(four.pairs, 4 * one.pairs)
    assert four.logits == pytest.approx(4 * one.logits)


def test_pairs_without_a_hidden_layer_run_through_the_convolution() -> None:
    model = LipschitzNet(
        small_net().head.family, ((3, 1), (4, 2)), num_classes=3, in_chans=1, img_size=4
    ).double().eval()  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(randn(*parameter.shape))
    rows = head_rows(model)
    a, b = cayley_pair(model.stages[1].weight.detach()[:, :, 0, 0])
    through = torch.einsum("kqs,qr->krs", rows.reshape(3, 4, -1), a.T).flatten(1)  # (w A^T) at every pixel
    expected = torch.minimum(distances(rows), 2 * distances(through) * torch.linalg.matrix_norm(b, 2))
    close_from_above(network_bound(explicit_steps(model)).pairs, expected)


def test_equal_rows_have_a_constant_of_zero_or_next_to_it() -> None:
    rows = torch.ones(2, 3, dtype=torch.float64)
    assert network_bound([Affine(Dense(rows), None)]).pairs.abs().max() == 0
    tail = Affine(Dense(torch.cat([rows, randn(1, 3)])), None)
    assert network_bound([dense_sandwich(3, 3), tail]).pairs[0, 1] == 0


def test_difference_that_the_last_layer_hides_keeps_the_rounding_of_its_product() -> None:
    """(w_i - w_j) A^T is zero in real arithmetic: what is computed is rounding, and the constant is not below it."""
    rows = torch.tensor([[1.0, 3.0], [3.0, 1.0]], dtype=torch.float64) / 7
    direction = torch.tensor([[1.0, -1.0]], dtype=torch.float64) / math.sqrt(2)
    a = torch.eye(2, dtype=torch.float64) - direction.T @ direction  # annihilates the difference
    b = direction.T @ direction
    step = Sandwich(Dense(a), Dense(b), "relu", None, None)
    constant = float(network_bound([step, Affine(Dense(rows), None)]).pairs[0, 1])
    assert 1e-17 < constant < 1e-13


# The bound of the whole


@pytest.mark.parametrize("normalized_head", [True, False])
@pytest.mark.parametrize("gamma", [1.0, 0.25, 3.0])
def test_backbone_and_logits(gamma: float, normalized_head: bool) -> None:
    model = small_net(lipschitz=gamma, normalized_head=normalized_head)
    bound = network_bound(explicit_steps(model))
    # both scalings count: the second one belongs to the matrix of the last affine layers
    close_from_above(bound.backbone, math.sqrt(gamma))
    close_from_above(bound.logits, gamma * torch.linalg.matrix_norm(head_rows(model), 2))
    if not normalized_head:
        assert bound.logits <= gamma * (1 + 1e-9)


@pytest.mark.parametrize("normalized_head", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_no_slope_of_the_network_exceeds_its_constants(seed: int, normalized_head: bool) -> None:
    model = small_net(seed, normalized_head=normalized_head, lipschitz=2.0)
    bound = network_bound(explicit_steps(model))
    for image in random_images(model, 4, seed):
        j = jacobian(model, image)
        assert torch.linalg.matrix_norm(j, 2) <= bound.logits
        assert (distances(j) <= bound.pairs).all()


def test_constants_are_reached_by_a_linear_network() -> None:
    rows = randn(4, 5)
    bound = network_bound([Affine(Scaling(0.5, (5,)), None), Affine(Dense(rows), randn(4))])
    close_from_above(bound.pairs, 0.5 * distances(rows))
    close_from_above(bound.logits, 0.5 * torch.linalg.matrix_norm(rows, 2))


def test_scaling_of_the_input_multiplies_every_bound() -> None:
    """Radii are in pixel units: dividing by std inside the model makes them smaller by std."""
    model = small_net()
    steps = explicit_steps(model)
    normalised = [Affine(Scaling(1 / 0.25, (1, 4, 4)), None), *steps]
    plain, scaled = network_bound(steps), network_bound(normalised)
    torch.testing.assert_close(scaled.pairs, 4 * plain.pairs)
    assert scaled.logits == pytest.approx(4 * plain.logits)


# Damaged operators


def sandwiches(factor: float) -> dict[str, Sandwich]:
    spectrum = cayley(kernel_spectrum(randn(3, 5, 3, 3), 4, 5)) * factor
    rows = cayley(randn(3, 5)) * factor
    kernel = orthonormal_kernel(randn(3, 5), randn(*factor_shape(5, 3))) * factor
    return {
        "dense": dense_sandwich(4, 3, factor=factor),
        "pointwise": Sandwich(Pointwise(rows[:, :3], (4, 5)), Pointwise(rows[:, 3:], (4, 5)), "relu", None, None),
        "convolution": Sandwich(
            Convolution(kernel[:, :3], (4, 5), "zeros", 1),
            Convolution(kernel[:, 3:], (4, 5), "zeros", 1),
            "relu",
            None,
            None,
        ),
        "circulant": Sandwich(
            Circulant(spectrum[:, :, :3], (4, 5)), Circulant(spectrum[:, :, 3:], (4, 5)), "relu", None, None
        ),
    }


@pytest.mark.parametrize("kind", sandwiches(1.0))
def test_orthonormal_sandwich_has_bound_one(kind: str) -> None:
    assert 1 < step_bound(sandwiches(1.0)[kind]) < 1 + 1e-12


@pytest.mark.parametrize("defect", [1e-9, 1e-6, 4e-4])
@pytest.mark.parametrize("kind", sandwiches(1.0))
def test_what_is_missing_of_orthonormality_loosens_the_bound(kind: str, defect: float) -> None:
    close_from_above(step_bound(sandwiches(1 + defect)[kind]), (1 + defect) ** 2)


@pytest.mark.parametrize("entry", ["a", "b"])
def test_one_edited_entry_loosens_the_bound_by_its_defect(entry: str) -> None:
    step = dense_sandwich(4, 3)
    operator: MatrixOperator = getattr(step, entry)
    assert isinstance(operator, Dense)
    operator.matrix[1, 2] += 1e-4
    exact = float(torch.linalg.matrix_norm(torch.cat([step.a.matrix, step.b.matrix], dim=-1), 2)) ** 2
    assert 1 + 1e-7 < exact < 1 + 1e-3
    close_from_above(step_bound(step), exact)


def test_loosened_layers_multiply() -> None:
    steps: list[Step] = [
        *(dense_sandwich(3, 3, seed=s, factor=1 + 1e-4) for s in range(3)),
        Affine(Dense(randn(2, 3)), None),
    ]
    close_from_above(network_bound(steps).backbone, (1 + 1e-4) ** 6)


@pytest.mark.parametrize("factor", [1 + 6e-4, 1.01, 2.0, 1e30, 1e200, math.inf, math.nan])
@pytest.mark.parametrize("kind", sandwiches(1.0))
def test_beyond_a_thousandth_the_weights_are_refused(kind: str, factor: float) -> None:
    with pytest.raises(NotCertifiableError, match=r"a sandwich layer .* up to (1\.0|[24]|1e\+60|inf).*damaged"):
        step_bound(sandwiches(factor)[kind])


def test_shrunken_weights_are_no_danger() -> None:
    close_from_above(step_bound(dense_sandwich(4, 3, factor=0.5)), 0.25)


# Networks without constants


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [dense_sandwich(3, 2)],
        [Affine(Pointwise(randn(2, 1), (3, 3)), None)],
        [dense_sandwich(3, 2), Affine(Scaling(2.0, (2,)), None)],
        [Affine(Flattening((1, 2, 2)), None)],
    ],
    ids=["nothing", "sandwich", "images", "scaling", "flattening"],
)
def test_network_that_does_not_end_in_a_linear_classifier_is_refused(steps: list[Step]) -> None:
    with pytest.raises(NotCertifiableError, match=r"does not end in a linear layer|cannot be written as one matrix"):
        network_bound(steps)


def test_steps_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        dense_sandwich(3, 2).activation = "abs"  # type: ignore[misc]


@given(st.floats(min_value=0, allow_nan=False, allow_infinity=False))
def test_bounds_are_written_short_and_never_below(bound: float) -> None:
    assert float(bound_text(bound)) >= bound
    assert float(bound_text(bound)) <= bound * (1 + 1e-8) + 1e-300


def test_a_bound_that_is_short_stays_so() -> None:
    assert [bound_text(bound) for bound in (0.05, 1.0, 2.5)] == ["0.05", "1", "2.5"]
    assert bound_text(1.0000000004) == "1.00000001"
