"""Completeness: every network that the SDP certifies is a sandwich network, and this builds it.

Wang and Manchester (2023), theorem 3.1 (necessity): let ``H >= 0`` for weights W_k, multipliers ``Lambda_k = Psi_k^2``
and gamma (see ``check_certificate``). Scaled to ones on its diagonal, H has the subdiagonal blocks ``-G_k`` with::

    G_0 = Psi_0 W_0 / sqrt(2 gamma),   G_k = Psi_k W_k Psi_{k-1}^-1 / 2,   G_L = W_L Psi_{L-1}^-1 / sqrt(2 gamma)

and a block Cholesky factorisation with rows ``[-B_k A_k]``: ``B_k = G_k A_{k-1}^-T`` (A_{-1} = I), ``A_k A_k^T = I -
B_k B_k^T``. These A_k and B_k are the layers' own. The root of ``I - B_k B_k^T`` is free up to an orthogonal factor;
the symmetric one has no eigenvalue -1, so that the Cayley transform reaches it.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InvalidInputError, NotCertifiableError
from ..layers import ContractionHead, LipschitzLinear, LipschitzSequential, Rescale, SandwichLinear, cayley_inverse
from ..layers.activations import is_homogeneous
from .feedforward import Feedforward

__all__ = ["SandwichNetwork", "from_feedforward", "from_matrix"]

# Of an eigenvalue that has to be nonnegative: what is taken for rounding.
TOLERANCE = 1e-10


class SandwichNetwork(LipschitzSequential):
    """Sandwich layers between two scalings by ``sqrt(lipschitz)``, (B, n) -> (B, K)."""

    def __init__(self, *layers: torch.nn.Module, lipschitz: float):
        super().__init__(*layers)
        self.nominal = lipschitz

    @property
    def lipschitz(self) -> float:
        """The nominal bound."""
        return self.nominal


def from_feedforward(network: Feedforward, multipliers: Sequence[Tensor], lipschitz: float) -> SandwichNetwork:
    """The sandwich network, in float64, that computes the same function as ``network`` with the bound ``lipschitz``.

    ``multipliers`` are the diagonals of the Lambda_k, (n_k,) each, for which the matrix inequality holds: those of
    `lipsdp`, or of an exported certificate.

    Raises `NotCertifiableError` where the inequality does not hold, beyond rounding, and `InvalidInputError` for
    multipliers that are not positive or do not fit.
    """
    if not 0 < lipschitz < math.inf:
        raise InvalidInputError(f"from_feedforward: lipschitz must be positive and finite, not {lipschitz!r}")
    if [len(m) for m in multipliers] != network.widths[1:-1]:
        raise InvalidInputError(
            f"from_feedforward: multipliers of {[len(m) for m in multipliers]} features for hidden layers of "
            f"{network.widths[1:-1]}"
        )
    if not all(bool((m > 0).all() and torch.isfinite(m).all()) for m in multipliers):
        raise InvalidInputError("from_feedforward: multipliers must be positive and finite")
    if not multipliers:
        raise InvalidInputError("from_feedforward: a network without activations is a matrix; see from_matrix")
    root = math.sqrt(2 * lipschitz)
    layers: list[torch.nn.Module] = [Rescale(math.sqrt(lipschitz))]
    inverse = torch.eye(network.widths[0], dtype=torch.float64)  # A_{k-1}^-T
    before = torch.ones(network.widths[0], dtype=torch.float64)  # the diagonal of Psi_{k-1}
    for k, activation in enumerate(network.activations):
        psi = multipliers[k].double().sqrt()
        gain = psi[:, None] * network.weights[k].double() / before / (root if k == 0 else 2.0)
        a, b, inverse = _rows(gain, inverse, f"hidden layer {k}")
        layers.append(_hidden(a, b, network.biases[k].double(), psi, activation))
        before = psi
    a, b, _ = _rows(network.weights[-1].double() / before / root, inverse, "the output")
    head = ContractionHead(b.shape[1], b.shape[0], dtype=torch.float64)
    _set(head, a, b, network.biases[-1].double())
    return SandwichNetwork(*layers, Rescale(math.sqrt(lipschitz)), head, lipschitz=lipschitz).eval()


def from_matrix(weight: Tensor, bias: Tensor | None = None) -> LipschitzLinear:
    """The layer ``h -> 2 A^T B h + b``, in float64, that is a matrix of spectral norm at most 1.

    With ``W = U S V^T`` and ``sin(2 t) = S``: ``A = U cos(t) U^T``, ``B = U sin(t) V^T`` (Proposition 3.3). Raises
    `NotCertifiableError` for a larger norm.
    """
    q, p = weight.shape
    u, s, vh = torch.linalg.svd(weight.double(), full_matrices=True)
    if not bool(s[0] <= 1 + TOLERANCE):
        raise NotCertifiableError(f"a matrix of spectral norm {float(s[0]):.12g} is no 1-Lipschitz layer")
    angles = torch.zeros(q, dtype=torch.float64)
    angles[: len(s)] = torch.asin(s.clamp(max=1.0)) / 2
    a = u * torch.cos(angles) @ u.mT
    b = (u * torch.sin(angles))[:, : min(p, q)] @ vh[: min(p, q)]
    layer = LipschitzLinear(p, q, bias=bias is not None, dtype=torch.float64)
    _set(layer, a, b, bias)
    return layer


def _rows(gain: Tensor, inverse: Tensor, where: str) -> tuple[Tensor, Tensor, Tensor]:
    """``B = G A_{k-1}^-T``, ``A = (I - B B^T)^(1/2)`` and ``A^-T``."""
    b = gain @ inverse
    eigenvalues, vectors = torch.linalg.eigh(torch.eye(len(b), dtype=b.dtype) - b @ b.mT)
    if not bool(eigenvalues[0] >= -TOLERANCE):
        raise NotCertifiableError(
            f"the matrix inequality does not hold at {where} (eigenvalue {float(eigenvalues[0]):.3g}): the bound is "
            "too small, or these are not the network's multipliers"
        )
    roots = eigenvalues.clamp_min(0.0).sqrt()
    # a direction in which A vanishes carries nothing on, or H would not be semidefinite
    inverses = torch.where(eigenvalues > TOLERANCE, 1 / roots, 0.0)
    return vectors * roots @ vectors.mT, b, vectors * inverses @ vectors.mT


def _hidden(a: Tensor, b: Tensor, bias: Tensor, psi: Tensor, activation: str) -> SandwichLinear:
    layer = SandwichLinear(b.shape[1], b.shape[0], activation=activation, dtype=torch.float64)
    if is_homogeneous(activation):  # Psi sigma(Psi^-1 v + b) = sigma(v + Psi b)
        _set(layer, a, b, psi * bias)
    else:
        _set(layer, a, b, bias)
        with torch.no_grad():
            layer.log_scale.copy_(psi.log())  # type: ignore[union-attr]
    return layer


@torch.no_grad()
def _set(layer: torch.nn.Module, a: Tensor, b: Tensor, bias: Tensor | None) -> None:
    layer.weight.copy_(cayley_inverse(torch.cat([a, b], dim=1)))  # type: ignore[operator]
    if bias is not None:
        layer.bias.copy_(bias)  # type: ignore[operator]
