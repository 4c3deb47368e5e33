"""Networks whose exact distance to the decision boundary is known, or that are small enough to search."""

from __future__ import annotations

from fractions import Fraction

import torch
from layer_contract import randomize
from torch import Tensor, nn

from timm_lipschitz.layers import Affine, Dense, SandwichFourierConv2d, Step
from timm_lipschitz.models import LayerFamily, LipschitzNet


class LinearNet(nn.Module):
    """Logits W x + b of images (B, 1, 1, features): the distance to the boundary is margin over ``||w_y - w_j||``."""

    lipschitz = 1.0
    in_chans = 1

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)
        self.img_size = (1, weight.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias

    def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
        return [Affine(Dense(self.weight.detach().double(), in_shape), self.bias.detach().double())]

    def exact_squared_radius(self, image: Tensor, label: int) -> Fraction | None:
        """Square of the distance in rational arithmetic; None for a wrong prediction or a tie."""
        x = [Fraction(value) for value in image.flatten().tolist()]
        rows = [[Fraction(value) for value in row] for row in self.weight.tolist()]
        biases = [Fraction(value) for value in self.bias.tolist()]
        logits = [sum((w * v for w, v in zip(row, x, strict=True)), b) for row, b in zip(rows, biases, strict=True)]
        squares = []
        for other, row in enumerate(rows):
            if other == label:
                continue
            gap = logits[label] - logits[other]
            if gap <= 0:
                return None
            norm = sum((a - b) ** 2 for a, b in zip(rows[label], row, strict=True))
            squares.append(gap**2 / norm)
        return min(squares)


def linear_net(seed: int = 0, classes: int = 3, features: int = 4) -> LinearNet:
    """Entries are multiples of 1/64, so that products and sums of them are exact in float64."""
    generator = torch.Generator().manual_seed(seed)
    entries = torch.randint(-128, 129, (classes, features + 1), generator=generator).double() / 64
    return LinearNet(entries[:, :-1], entries[:, -1]).eval()


def grid_images(count: int, features: int = 4, seed: int = 1) -> Tensor:
    """Pixels are multiples of 1/64 in [0, 1]."""
    return torch.randint(0, 65, (count, 1, 1, features), generator=torch.Generator().manual_seed(seed)).double() / 64


def small_net(seed: int = 0, **kwargs: object) -> LipschitzNet:
    """A network with a Fourier layer of each stride and a hidden layer, random, on 1x4x4 images."""
    settings = {"in_chans": 1, "img_size": 4, "num_classes": 3, **kwargs}
    model = LipschitzNet(LayerFamily(stage=SandwichFourierConv2d), ((3, 1), (4, 2)), (6,), **settings)  # type: ignore[arg-type]
    model = model.double()
    randomize(model, seed)
    return model.eval()


def random_images(model: nn.Module, count: int, seed: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, model.in_chans, *model.img_size, generator=generator, dtype=torch.float64)
