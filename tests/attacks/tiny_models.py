"""Models of a few hundred parameters on 1x6x6 images, whose smallest perturbation is known."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SHAPE = (1, 6, 6)
THREE_CHANNELS = ("tifgsm", "pifgsm", "pifgsmpp")  # attacks that other images are refused by
DUAL_ORDER = {"l1": float("inf"), "l2": 2.0, "linf": 1.0}


def shape_for(name: str) -> tuple[int, int, int]:
    """Of images that the attack takes."""
    return (3, *SHAPE[1:]) if name in THREE_CHANNELS else SHAPE


class Linear(nn.Module):
    """Logits W x + b, (B, C, H, W) -> (B, K). The smallest perturbation to class j is margin_j / ||w_y - w_j||_dual."""

    def __init__(
        self, num_classes: int, shape: tuple[int, int, int] = SHAPE, seed: int = 0, shift: float = 0.0
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        features = shape[0] * shape[1] * shape[2]
        self.linear = nn.Linear(features, num_classes)
        with torch.no_grad():
            self.linear.weight.copy_(torch.randn(num_classes, features, generator=generator) / features**0.5)
            self.linear.bias.fill_(shift)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1))

    def smallest_perturbation(self, images: Tensor, labels: Tensor, norm: str) -> Tensor:
        """(N,) float64, exact where the box [0, 1] does not bind."""
        weight, bias = self.linear.weight.double(), self.linear.bias.double()
        logits = images.flatten(1).double() @ weight.T + bias
        margins = logits.gather(1, labels[:, None]) - logits  # (N, K)
        norms = torch.linalg.vector_norm(weight[labels][:, None] - weight[None], ord=DUAL_ORDER[norm], dim=2)
        distances = margins / norms.clamp_min(1e-300)
        return distances.scatter(1, labels[:, None], torch.inf).amin(dim=1).detach()


class Mlp(nn.Module):
    """A small network with a hidden layer, for what a linear model does not show."""

    def __init__(self, num_classes: int, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        features = shape[0] * shape[1] * shape[2]
        self.hidden = nn.Linear(features, 32)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(32, num_classes)
        with torch.no_grad():
            for layer in (self.hidden, self.head):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) / layer.in_features**0.5)
                layer.bias.copy_(torch.randn(layer.bias.shape, generator=generator) / 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.dropout(self.hidden(images.flatten(1)).relu()))


def grey_images(count: int, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> Tensor:
    """(N, C, H, W), pixels in [0.3, 0.7]: far from the box."""
    return 0.3 + 0.4 * torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def predicted(model: nn.Module, images: Tensor) -> Tensor:
    """(N,) labels that the model gets right, in evaluation mode."""
    training = model.training
    with torch.no_grad():
        labels = model.eval()(images).argmax(dim=1)
    model.train(training)
    return labels
