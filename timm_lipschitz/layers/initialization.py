"""Initial values of Cayley parameters: how much of the signal, and of its gradient, each layer keeps at the start.

A single layer starts as an isometry before its activation (`isometric_`). A ReLU still halves the signal's energy at
every layer. Networks therefore pair their channels (`initialize`): with ``B = [u; -u] / sqrt2`` and ``A = [[I, I], [I,
I]] / 2`` a ReLU layer is ``h -> [|u h|; |u h|] / sqrt2``, and as the next layer reads both halves alike, nothing is
lost but the sign.
"""

import math
from collections.abc import Iterable
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from ..errors import InvalidInputError

__all__ = ["Scheme", "initialize", "isometric_", "paired_", "reference_"]

Scheme: TypeAlias = Literal["paired", "isometric", "reference"]


def _centre(weight: Tensor) -> Tensor:
    """(q, q + p), or the centre tap of a convolution's (q, q + p, k, k), as a view."""
    return weight if weight.dim() == 2 else weight[:, :, (weight.shape[2] - 1) // 2, (weight.shape[3] - 1) // 2]


def _semi_orthogonal(rows: int, columns: int, device: torch.device) -> Tensor:
    return nn.init.orthogonal_(torch.empty(rows, columns, device=device, dtype=torch.float32))


@torch.no_grad()
def isometric_(weight: Tensor) -> Tensor:
    """``X = 0, V = (sqrt2 - 1) U`` with semi-orthogonal ``U``: then ``2 A^T B = U``.

    ``weight`` is (q, q + p) or, for a convolution, (q, q + p, k, k), of which only the centre tap is set.
    """
    weight.zero_()
    if not weight.is_meta:
        free = _centre(weight)
        rows = free.shape[0]
        free[:, rows:] = (math.sqrt(2.0) - 1.0) * _semi_orthogonal(rows, free.shape[1] - rows, weight.device)
    return weight


@torch.no_grad()
def paired_(weight: Tensor, paired_input: bool) -> Tensor:
    """``X = 0, V = [u; -u] / sqrt2`` with semi-orthogonal ``u``, for a layer with ReLU.

    With ``paired_input`` the two halves of the input's channels carry the same signal, and ``u`` reads their sum. Where
    q is odd, the last row starts at zero.
    """
    weight.zero_()
    if not weight.is_meta:
        free = _centre(weight)
        rows, half = free.shape[0], free.shape[0] // 2
        columns = free.shape[1] - rows
        if paired_input and columns % 2 == 0:
            u = _semi_orthogonal(half, columns // 2, weight.device).repeat(1, 2) / math.sqrt(2.0)
        else:
            u = _semi_orthogonal(half, columns, weight.device)
        free[:half, rows:] = u / math.sqrt(2.0)
        free[half : 2 * half, rows:] = -u / math.sqrt(2.0)
    return weight


@torch.no_grad()
def reference_(weight: Tensor) -> Tensor:
    """As the authors of the sandwich layer start it: uniform free parameters, torch's default for linear layers.

    ``A`` is then near the identity and ``B`` near zero, and signal and gradient shrink from layer to layer. Source: the
    code of Wang and Manchester (2023), github.com/acfr/LBDN.
    """
    return nn.init.kaiming_uniform_(weight, a=math.sqrt(5.0))  # type: ignore[return-value]


def initialize(layers: Iterable[nn.Module], scheme: Scheme) -> None:
    """Sets the weights of sandwich layers that follow one another, in order; other modules are left alone.

    ``"paired"`` applies where the activation is ReLU; a layer with another one starts isometric, and so does its
    successor. ``"isometric"`` and ``"reference"`` start every layer by itself. Raises `InvalidInputError` for any other
    scheme.
    """
    if scheme not in get_args(Scheme):
        raise InvalidInputError(f"init {scheme!r} is not known; use one of {', '.join(get_args(Scheme))}")
    paired_input = False
    for layer in layers:
        weight, activation = getattr(layer, "weight", None), getattr(layer, "activation", None)
        if weight is None or not hasattr(layer, "log_scale"):  # the logarithm of Psi, or None: a sandwich layer's own
            continue
        pair = scheme == "paired" and activation == "relu" and weight.shape[0] > 1
        if pair:
            paired_(weight, paired_input)
        elif scheme == "reference":
            reference_(weight)
        else:
            isometric_(weight)
        paired_input = pair
