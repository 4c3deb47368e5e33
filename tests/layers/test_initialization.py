"""How much of the signal and of its gradient a new network keeps."""

import pytest
import torch
from torch import Tensor, nn

from timm_lipschitz.errors import InvalidInputError
from timm_lipschitz.layers import SandwichFourierConv2d, SandwichLinear, cayley
from timm_lipschitz.layers.initialization import initialize, isometric_, paired_

DEPTH = 20


def gradient_ratio(layers: list[nn.Module], x: Tensor, paired_loss: bool = False) -> float:
    """Norm of a random linear loss's gradient to the first layer's activations over that to the last layer's.

    A paired loss reads the two halves of the last layer's channels alike, as a further paired layer would.
    """
    activations = []
    for layer in layers:
        x = layer(x)
        x.retain_grad()
        activations.append(x)
    loss = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    if paired_loss:
        loss = loss + loss.roll(x.shape[1] // 2, dims=1)
    (x * loss).sum().backward()
    first, last = activations[0].grad, activations[-1].grad
    assert first is not None
    assert last is not None
    return float(first.norm() / last.norm())


def deep_mlp(width: int = 32) -> list[nn.Module]:
    return [SandwichLinear(width, width, dtype=torch.float64) for _ in range(DEPTH)]


def test_paired_rows_keep_the_gradient_over_twenty_relu_layers() -> None:
    layers = deep_mlp()
    initialize(layers, "paired")
    x = torch.randn(16, 32, dtype=torch.float64)
    assert gradient_ratio(layers, x, paired_loss=True) == pytest.approx(1.0, rel=1e-4)
    assert 0.5 < gradient_ratio(layers, x) < 2


def test_isometric_and_reference_initialisation_lose_it() -> None:
    layers = deep_mlp()
    initialize(layers, "isometric")
    isometric = gradient_ratio(layers, torch.randn(16, 32, dtype=torch.float64))
    initialize(layers, "reference")
    reference = gradient_ratio(layers, torch.randn(16, 32, dtype=torch.float64))
    assert reference < 0.001
    assert reference < isometric < 0.1


def test_scheme_of_a_model_is_chosen_by_name() -> None:
    import timm

    kept = timm.create_model("sandwich_mlp").stages[1].weight
    reference = timm.create_model("sandwich_mlp", init="reference").stages[1].weight
    assert not kept[:, : len(kept)].any()
    assert reference[:, : len(reference)].std() > 0
    with pytest.raises(InvalidInputError, match="init 'xavier' is not known; use one of paired, isometric, reference"):
        timm.create_model("sandwich_mlp", init="xavier")


def test_paired_rows_keep_the_gradient_of_convolutions() -> None:
    layers = [SandwichFourierConv2d(8, 8, 3, img_size=4, dtype=torch.float64) for _ in range(DEPTH)]
    initialize(layers, "paired")
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    assert gradient_ratio(layers, x, paired_loss=True) == pytest.approx(1.0, rel=1e-4)
    assert 0.5 < gradient_ratio(layers, x) < 2


def test_paired_layer_is_an_isometry_on_half_the_channels() -> None:
    first, second = SandwichLinear(8, 16, dtype=torch.float64), SandwichLinear(16, 16, dtype=torch.float64)
    initialize([first, second], "paired")
    x = torch.randn(5, 8, dtype=torch.float64)
    y = second(first(x))
    torch.testing.assert_close(y.norm(dim=1), x.norm(dim=1), rtol=1e-6, atol=0)
    torch.testing.assert_close(y[:, :8], y[:, 8:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 7), (5, 7), (1, 3), (5, 9, 3, 3), (4, 20, 2, 2)])
@pytest.mark.parametrize("paired", [True, False])
def test_free_parameters_start_at_rest(shape: tuple[int, ...], paired: bool) -> None:
    weight = torch.full(shape, 9.0, dtype=torch.float64)
    if paired and shape[0] > 1:
        paired_(weight, paired_input=False)
    else:
        isometric_(weight)
    taps = weight.flatten(2) if weight.dim() == 4 else weight[:, :, None]
    centre = 0 if weight.dim() == 2 else ((shape[2] - 1) // 2) * shape[3] + (shape[3] - 1) // 2
    others = [tap for tap in range(taps.shape[2]) if tap != centre]
    assert not taps[:, :, others].any()
    assert not taps[:, : shape[0], centre].any()  # X = 0
    rows = cayley(taps[:, :, centre])
    assert rows[:, shape[0] :].any()
    torch.testing.assert_close(rows @ rows.T, torch.eye(shape[0], dtype=torch.float64), atol=1e-12, rtol=0)


def test_scheme_follows_the_activations() -> None:
    layers = [SandwichLinear(8, 8, activation=name, dtype=torch.float64) for name in ("relu", "tanh", "relu")]
    initialize([nn.Flatten(), *layers], "paired")
    halves = [torch.allclose(layer.weight[:4, 8:], -layer.weight[4:, 8:]) for layer in layers]
    assert halves == [True, False, True]
    # behind tanh the two halves of the channels do not carry the same signal
    assert not torch.allclose(layers[2].weight[:, 8:12], layers[2].weight[:, 12:])


def test_meta_device() -> None:
    layers = [SandwichLinear(4, 4, device="meta"), SandwichFourierConv2d(4, 4, img_size=4, device="meta")]
    initialize(layers, "paired")
    assert all(layer.weight.is_meta for layer in layers)
