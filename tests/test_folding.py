"""A folded network is the same function with explicit weights."""

from __future__ import annotations

import copy
import math
import pickle
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import safetensors.torch
import torch
from layer_contract import randomize, relative_error
from layers.reference import cayley_pair
from models.narrow import narrow_model
from timm_contract import registered_models
from torch import Tensor, nn

from timm_lipschitz import fold
from timm_lipschitz.errors import InvalidInputError, NonFiniteError, NotCertifiableError
from timm_lipschitz.folding import FoldedNetwork
from timm_lipschitz.layers import SandwichFourierConv2d, SandwichLinear
from timm_lipschitz.layers.folded import (
    FoldedCirculant,
    FoldedConvolution,
    FoldedDense,
    FoldedPointwise,
    FoldedPooling,
    FoldedResidual,
    SpaceToDepth2d,
)
from timm_lipschitz.layers.sequential import IMAGES_AT_ONCE
from timm_lipschitz.models import LayerFamily, LipschitzNet

MODELS = [name for name in registered_models("timm_lipschitz") if not name.startswith("plain_cnn")]
EVEN, ODD = (12, 12), (9, 11)
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "normalised head": {"normalized_head": True, "lipschitz": 2.5},
    "contraction head": {"normalized_head": False, "lipschitz": 0.3},
}


def images(model: LipschitzNet, count: int = 3) -> Tensor:
    return torch.rand(
        count, model.in_chans, *model.img_size, dtype=torch.float64, generator=torch.Generator().manual_seed(5)
    )


def tanh_net(**kwargs: Any) -> LipschitzNet:
    """Stride 1 and 2, dense layers, every one with a Psi of its own."""
    family = LayerFamily(
        stage=partial(SandwichFourierConv2d, activation="tanh"), hidden=partial(SandwichLinear, activation="tanh")
    )
    settings = {"in_chans": 2, "img_size": (6, 8), "num_classes": 4, "lipschitz": 1.7, **kwargs}
    model = LipschitzNet(family, ((3, 1), (4, 2), (3, 1)), (6, 5), **settings).double()
    randomize(model)
    return model.eval()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [EVEN, ODD])
@pytest.mark.parametrize("name", MODELS)
def test_same_logits(name: str, size: tuple[int, int], variant: str) -> None:
    model = narrow_model(name, in_chans=2, img_size=size, num_classes=7, **VARIANTS[variant])
    x = images(model, 40)  # products with few images may be computed in another way
    with torch.no_grad():
        expected = model(x)
        double = fold(model)
        assert relative_error(double(x), expected) < 1e-12
        assert relative_error(double(x[:3]), expected[:3]) < 1e-12
        single = fold(model.float())
        assert relative_error(single(x.float()).double(), expected) < 1e-5
    assert all(p.dtype == torch.float32 for p in single.parameters())
    assert single.lipschitz == model.lipschitz == VARIANTS[variant].get("lipschitz", 1.0)
    assert (single.num_classes, single.in_shape) == (7, (2, *size))


@pytest.mark.parametrize("name", ["sandwich_cnn", "sandwich_mlp"])
def test_same_logits_at_full_width(name: str) -> None:
    import timm

    torch.manual_seed(0)
    model = timm.create_model(name, img_size=8, in_chans=1).eval()
    x = images(model).float()
    with torch.no_grad():
        assert relative_error(fold(model)(x), model(x)) < 1e-5


@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("sll_resnet")])
def test_one_linear_map_between_activations(name: str) -> None:
    model = narrow_model(name, img_size=16)
    kinds = [type(m) for m in fold(model).layers if not isinstance(m, SpaceToDepth2d | FoldedPooling)]
    assert set(kinds[0::2]) <= {FoldedCirculant, FoldedConvolution, FoldedDense, FoldedPointwise}
    assert kinds[1::2] == [nn.ReLU] * (len(model.stages) + len(model.head.layers))
    assert len(kinds) == 2 * len(kinds[1::2]) + 1


def test_residual_layers_are_folded_one_by_one_and_nothing_else_stands_between_them() -> None:
    layers = list(fold(narrow_model("sll_resnet", img_size=16)).layers)
    kinds = [type(m) for m in layers]
    dense = [FoldedResidual] * 3
    assert kinds == [FoldedPointwise, *[FoldedResidual] * 6, FoldedPooling, nn.Flatten, *dense, FoldedDense]
    assert [type(m) for m in layers[1].branch] == [FoldedConvolution, nn.ReLU, FoldedConvolution]


def test_fourier_layer_is_multiplied_with_the_strided_one_behind_it_at_half_the_size() -> None:
    layers = list(fold(narrow_model("sandwich_cnn", img_size=8)).layers)
    kinds = [type(m).__name__ for m in layers if not isinstance(m, nn.ReLU)]
    assert kinds == ["FoldedCirculant"] * 4 + ["FoldedDense"] * 3
    circulants = [m for m in layers if isinstance(m, FoldedCirculant)]
    assert [(m.size, m.stride) for m in circulants] == [((8, 8), 1), ((4, 4), 2), ((4, 4), 1), ((2, 2), 2)]


@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_explicit_layer_is_multiplied_with_the_strided_one_behind_it(padding_mode: str) -> None:
    model = narrow_model("sandwich_bcop_cnn", img_size=16)
    for stage in model.stages:
        stage.padding_mode, stage.circular = padding_mode, padding_mode == "circular"
    folded = fold(model)
    convolutions = [m for m in folded.layers if isinstance(m, FoldedConvolution)]
    assert [(m.weight.shape[2], m.stride) for m in convolutions] == [(3, 1), (4, 2), (3, 1), (4, 2)]
    x = images(model)
    assert relative_error(folded(x), model(x)) < 1e-12
    for stage in model.stages:
        stage.padding_mode, stage.circular = "zeros", False
    assert (relative_error(folded(x), model(x)) > 1e-3) == (padding_mode == "circular")


def test_pooling_stays_where_a_matrix_for_all_pixels_would_be_dearer() -> None:
    kinds = [type(m).__name__ for m in fold(narrow_model("sandwich_bcop_cnn", img_size=64)).layers][-8:]
    assert kinds == ["FoldedConvolution", "ReLU", "FoldedPooling", "FoldedDense", "ReLU", "FoldedDense", "ReLU",
                     "FoldedDense"]  # fmt: skip


def test_weights_are_those_of_theorem_3_1() -> None:
    gamma = 2.5
    model = narrow_model("sandwich_mlp", img_size=4, num_classes=3, lipschitz=gamma)
    factors = [cayley_pair(layer.weight.detach()) for layer in (*model.stages, model.head.fc)]
    expected = [math.sqrt(2 * gamma) * factors[0][1]]
    expected += [2 * b @ a.T for (a, _), (_, b) in pairwise(factors[:-1])]
    expected += [math.sqrt(2 * gamma) * factors[-1][1] @ factors[-2][0].T]
    found = [m.weight.detach() for m in fold(model).layers if isinstance(m, FoldedDense)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_folded_weights_satisfy_the_matrix_inequality_of_the_bound() -> None:
    """Fazlyab et al. (2019), with multipliers Psi^2: plain weights alone prove gamma, and not 0.99 gamma."""
    gamma = 1.7
    model = LipschitzNet(
        LayerFamily(stage=SandwichFourierConv2d, hidden=partial(SandwichLinear, activation="tanh")),
        ((5, 1), (6, 1), (4, 1)),
        in_chans=1,
        img_size=(2, 3),
        num_classes=4,
        lipschitz=gamma,
        spatial=False,
        init="isometric",
    ).double().eval()  # fmt: skip
    randomize(model)
    weights = [m.weight.detach() for m in fold(model).layers if isinstance(m, FoldedDense)]
    lambdas = [torch.exp(2 * layer.log_scale.detach()) for layer in model.stages]

    def inequality(bound: float) -> Tensor:
        sizes = [weights[0].shape[1], *(len(w) for w in weights)]
        ends = torch.cumsum(torch.tensor(sizes), 0)
        h = torch.zeros(int(ends[-1]), int(ends[-1]), dtype=torch.float64)
        diagonals = [torch.full([sizes[0]], bound), *(2 * values for values in lambdas), torch.full([sizes[-1]], bound)]
        h += torch.diag(torch.cat(diagonals))
        for k, w in enumerate(weights):
            rows = slice(int(ends[k]), int(ends[k + 1]))
            columns = slice(int(ends[k]) - sizes[k], int(ends[k]))
            h[rows, columns] = -(lambdas[k][:, None] if k < len(lambdas) else 1.0) * w
            h[columns, rows] = h[rows, columns].T
        return h

    assert torch.linalg.eigvalsh(inequality(gamma)).min() > -1e-12
    assert torch.linalg.eigvalsh(inequality(0.9 * gamma)).min() < -1e-3


def test_psi_is_absorbed() -> None:
    model = tanh_net()
    x = images(model)
    assert relative_error(fold(model)(x), model(x)) < 1e-12
    assert not any("log_scale" in name for name, _ in fold(model).named_parameters())


@pytest.mark.parametrize("value", [20.0, -20.0])
def test_large_psi_folds(value: float) -> None:
    model = tanh_net()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("log_scale"):
                parameter[::2] = value
    x = images(model)
    assert torch.isfinite(model(x)).all()
    assert relative_error(fold(model)(x), model(x)) < 1e-10


def test_psi_that_overflows_in_the_models_dtype_is_refused() -> None:
    model = tanh_net()
    with torch.no_grad():
        model.head.layers[0].log_scale.fill_(79.0)
        model.head.layers[1].log_scale.fill_(-79.0)  # the product of the two exponentials is 1e68
    assert all(torch.isfinite(p).all() for p in fold(model).parameters())
    with pytest.raises(NonFiniteError, match=r"cannot be folded in torch.float32: layers\.\d+\.weight overflows"):
        fold(model.float())


@pytest.mark.parametrize("training", [True, False])
def test_model_is_left_alone(training: bool) -> None:
    model = tanh_net().train(training)
    before = copy.deepcopy(model.state_dict())
    folded = fold(model)
    assert not folded.training
    assert model.training is training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.zero_()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_active_dropout_is_refused_and_inactive_dropout_is_not() -> None:
    model = tanh_net(drop_rate=0.3)
    x = images(model)
    assert relative_error(fold(model)(x), model(x)) < 1e-12
    with pytest.raises(NotCertifiableError, match=r"module 'head\.drop' drops activations at random"):
        fold(model.train())


def test_explicit_weights_are_a_plain_state_dict() -> None:
    model = tanh_net().float()
    folded = fold(model)
    x = images(model).float()
    other = fold(tanh_net(lipschitz=0.4).float())
    stored = safetensors.torch.save(folded.state_dict())
    other.load_state_dict(safetensors.torch.load(stored))
    assert torch.equal(other(x), folded(x))
    for twin in (copy.deepcopy(folded), pickle.loads(pickle.dumps(folded))):  # noqa: S301
        assert torch.equal(twin(x), folded(x))
        assert twin.lipschitz == folded.lipschitz
    assert {name.rpartition(".")[2] for name in folded.state_dict()} == {"weight", "bias"}


def test_folded_network_compiles_and_exports() -> None:
    family = LayerFamily(stage=SandwichFourierConv2d)
    model = LipschitzNet(family, ((2, 2), (2, 1)), img_size=6).eval()  # every kind of folded module
    folded, x = fold(model), images(model).float()
    torch._dynamo.reset()
    assert torch.allclose(torch.compile(folded, fullgraph=True, backend="eager")(x), folded(x), atol=1e-6)
    assert torch.allclose(torch.export.export(folded, (x,)).module()(x), folded(x), atol=1e-6)


def test_images_of_another_shape_are_refused() -> None:
    folded = fold(tanh_net())
    for shape in [(1, 2, 8, 6), (1, 1, 6, 8), (2, 6, 8)]:
        with pytest.raises(InvalidInputError, match=r"folded for images \(B, 2, 6, 8\), not") as error:
            folded(torch.zeros(shape))
        assert str(shape) in str(error.value)


def test_headless_network_is_refused_and_a_featurizer_folds() -> None:
    with pytest.raises(NotCertifiableError, match="no head"):
        fold(tanh_net(num_classes=0, global_pool=""))
    model = tanh_net(num_classes=0)
    x = images(model)
    assert relative_error(fold(model)(x), model(x)) < 1e-12


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    model = tanh_net()
    with torch.no_grad():
        model.stages[1].bias[2] = value
    with pytest.raises(NonFiniteError, match=r"SandwichFourierConv2d\.bias: 1 of 4 values"):
        fold(model)


def test_what_cannot_be_folded_is_named() -> None:
    with pytest.raises(NotCertifiableError, match="Conv2d is not certifiable"):
        fold(nn.Conv2d(1, 1, 1))
    model = tanh_net()
    model.stages[1] = nn.BatchNorm2d(3)
    with pytest.raises(NotCertifiableError, match=r"module 'stages\.1' \(BatchNorm2d\)"):
        fold(model)
    with pytest.raises(InvalidInputError, match=r"SandwichLinear does not say its input shape; pass in_shape"):
        fold(SandwichLinear(4, 2))
    with pytest.raises(InvalidInputError, match=r"built for images of \(2, 6, 8\), not \(2, 8, 6\)"):
        fold(tanh_net(), in_shape=(2, 8, 6))


def test_single_layer_folds_with_its_shape() -> None:
    layer = SandwichLinear(4, 2, dtype=torch.float64)
    randomize(layer)
    layer.lipschitz = 1.0
    x = torch.randn(3, 4, dtype=torch.float64)
    folded = fold(layer, in_shape=(4,))
    assert isinstance(folded, FoldedNetwork)
    assert relative_error(folded(x), layer(x)) < 1e-12


@pytest.mark.parametrize("name", ["sandwich_cnn", "sandwich_bcop_cnn", "sandwich_mlp"])
def test_many_images_give_what_each_gives(name: str) -> None:
    model = narrow_model(name, img_size=8, dtype=torch.float64)
    folded = fold(model)
    many = images(model, 2 * IMAGES_AT_ONCE + 3)
    with torch.no_grad():
        torch.testing.assert_close(folded(many), torch.cat([folded(x[None]) for x in many]), rtol=1e-12, atol=1e-12)
