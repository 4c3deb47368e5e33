"""Last layers against their formulas."""

import pytest
import torch
from layer_contract import randomize
from layers.reference import cayley_pair

from timm_lipschitz.errors import InvalidInputError
from timm_lipschitz.layers import ContractionHead, NormalizedLinear


@pytest.mark.parametrize(("p", "q"), [(6, 3), (3, 6), (1, 1)])
def test_contraction_head_is_the_factor_b(p: int, q: int) -> None:
    layer = ContractionHead(p, q, dtype=torch.float64)
    randomize(layer)
    x = torch.randn(5, p, dtype=torch.float64)
    b = cayley_pair(layer.weight.detach())[1]
    torch.testing.assert_close(layer(x), x @ b.T + layer.bias, rtol=0, atol=1e-13)


def test_two_logits_of_the_contraction_head_part_at_most_sqrt2_as_fast() -> None:
    layer = ContractionHead(6, 3, dtype=torch.float64)
    randomize(layer, spread=30)
    rows = layer.explicit((6,))[0].operator.matrix
    assert torch.cdist(rows, rows).max() <= 2**0.5 + 1e-12


def test_normalized_linear_has_unit_rows() -> None:
    layer = NormalizedLinear(6, 3, dtype=torch.float64)
    randomize(layer, spread=100)
    x = torch.randn(5, 6, dtype=torch.float64)
    rows = torch.stack([row / row.norm() for row in layer.weight.detach()])
    torch.testing.assert_close(layer(x), x @ rows.T + layer.bias, rtol=0, atol=1e-13)


def test_normalized_linear_survives_a_row_of_zeros() -> None:
    layer = NormalizedLinear(3, 2)
    with torch.no_grad():
        layer.weight[0] = 0
    assert torch.equal(layer(torch.ones(1, 3))[0, 0], layer.bias[0])
    assert layer.explicit((3,))[0].operator.norm_bound() >= 1


def test_logits_of_all_classes_together_may_exceed_one_which_is_why_pairs_count() -> None:
    layer = NormalizedLinear(3, 4, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.ones(4, 3))
    assert layer.explicit((3,))[0].operator.norm_bound() == pytest.approx(2.0)


@pytest.mark.parametrize("head", [ContractionHead, NormalizedLinear])
@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (3, -1), (2.5, 3)])
def test_sizes_that_are_no_positive_integers_are_refused(head: type, sizes: tuple[int, int]) -> None:
    with pytest.raises(InvalidInputError, match=f"{head.__name__}: (in|out)_features must be a positive integer"):
        head(*sizes)
