"""A network as plain matrices: what the matrix inequality, LipSDP and the completeness theorem speak about.

    z_0 = sigma_0(W_0 x + b_0),   z_k = sigma_k(W_k z_{k-1} + b_k),   y = W_L z_{L-1} + b_L

Convolutions become matrices between flattened feature maps, so this is for small networks.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..errors import InvalidInputError, NonFiniteError, NotCertifiableError
from ..folding import FoldedNetwork
from ..layers import ACTIVATIONS, Activation, Affine, Bounded, Operator, Residual, Sandwich, Scaling, Step, folded
from ..layers.activations import make_activation
from ..layers.steps import in_shape, out_shape

__all__ = ["Feedforward", "feedforward", "folded_feedforward"]

# float64 entries of all matrices together: 512 MiB, of which checking a certificate needs a few copies.
LARGEST_NETWORK = 2**26


@dataclass(frozen=True, eq=False)
class Feedforward:
    """Matrices, biases and activations of a network on flat inputs.

    ``weights[k]`` (n_k, n_{k-1}) and ``biases[k]`` (n_k,), float64; ``activations[k]`` names sigma_k and there is one
    fewer of them. Raises `InvalidInputError` for shapes that do not fit together or an activation whose slope leaves
    [0, 1], and `NonFiniteError` for NaN or infinity.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    activations: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.weights) == len(self.biases) == len(self.activations) + 1:
            raise InvalidInputError(
                f"Feedforward: {len(self.weights)} weights take as many biases and one activation fewer, not "
                f"{len(self.biases)} and {len(self.activations)}"
            )
        columns = None
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if weight.dim() != 2 or bias.shape != weight.shape[:1] or columns not in (None, weight.shape[1]):
                before = "" if columns is None else f" behind {columns} features"
                raise InvalidInputError(
                    f"Feedforward: weight {k} {tuple(weight.shape)} and bias {tuple(bias.shape)} do not fit{before}"
                )
            if not bool(torch.isfinite(weight).all() and torch.isfinite(bias).all()):
                raise NonFiniteError(f"Feedforward: layer {k} has NaN or infinite weights or biases")
            columns = weight.shape[0]
        for name in self.activations:
            make_activation(name)

    @property
    def widths(self) -> list[int]:
        """Sizes of input, hidden layers and output."""
        return [self.weights[0].shape[1], *(weight.shape[0] for weight in self.weights)]

    def __call__(self, x: Tensor) -> Tensor:
        """(B, n) -> (B, K), in the dtype of the weights."""
        for weight, bias, activation in zip(self.weights, self.biases, (*self.activations, "identity"), strict=True):
            x = make_activation(activation)(x @ weight.mT + bias)
        return x


def feedforward(steps: Sequence[Step]) -> Feedforward:
    """The network that explicit steps describe, in float64 on the CPU.

    Raises `NotCertifiableError` for a network whose matrices would not fit into `LARGEST_NETWORK` entries, or one with
    residual layers or a module of which only an asserted bound is known.
    """
    if not steps:
        raise NotCertifiableError("a network without layers has no matrices")
    hidden = [
        math.prod(step.a.out_shape if isinstance(step, Sandwich) else step.shape)
        for step in steps
        if isinstance(step, Sandwich | Activation) and step.activation != "identity"
    ]
    _check_size([math.prod(in_shape(steps[0])), *hidden, math.prod(out_shape(steps[-1]))])
    weights, biases, activations = [], [], []
    linear = _Linear([], None)
    for step in steps:
        if isinstance(step, Bounded):
            raise NotCertifiableError(
                f"module {step.name!r} ({type(step.module).__name__}) has an asserted bound and no explicit weights: "
                "there is no matrix inequality to prove; certify needs none"
            )
        if isinstance(step, Residual):
            raise NotCertifiableError(
                f"{step.name or 'a layer'} adds its input to its output, and the matrix inequality is one of "
                "feedforward networks; certify needs none"
            )
        if isinstance(step, Affine):
            linear = linear.then(step.operator, step.bias)
            continue
        if isinstance(step, Activation):
            linear = linear.then(Scaling(1.0, step.shape), step.bias)
            if step.activation != "identity":
                weights.append(linear.matrix())
                biases.append(linear.offset())
                activations.append(step.activation)
                linear = _Linear([], None)
            continue
        scale = 1.0 if step.log_scale is None else torch.exp(step.log_scale)
        linear = linear.then(step.b.scaled(math.sqrt(2.0) / scale), step.bias)
        if step.activation != "identity":
            weights.append(linear.matrix())
            biases.append(linear.offset())
            activations.append(step.activation)
            linear = _Linear([], None)
        linear = linear.then(step.a.transposed().scaled(math.sqrt(2.0), scale), None)
    weights.append(linear.matrix())
    biases.append(linear.offset())
    return Feedforward(tuple(weights), tuple(biases), tuple(activations))


@torch.no_grad()
def folded_feedforward(network: FoldedNetwork) -> Feedforward:
    """A folded network's own weights, edited or not, as matrices in float64 on the CPU.

    Raises `NotCertifiableError` for modules that folding does not make, or matrices as large as for `feedforward`.
    """
    names = {type(make_activation(name)): name for name in ACTIVATIONS}
    modules = copy.deepcopy(network.layers).double().cpu().eval()
    weights, biases, activations = [], [], []
    start = torch.zeros(1, *network.in_shape, dtype=torch.float64)
    sizes, end = [start.numel()], start
    for module in modules:
        if type(module) in names:
            sizes.append(end.numel())
        elif not type(module).__module__.startswith(folded.__name__) and not isinstance(module, nn.Flatten):
            raise NotCertifiableError(
                f"{type(module).__name__} is no module of a folded network, so its matrix is not known"
            )
        end = module(end)
    _check_size([*sizes, end.numel()])
    pending: list[nn.Module] = []
    for module in [*modules, None]:
        if module is not None and type(module) not in names:
            pending.append(module)
            continue
        end = _run(pending, start)
        biases.append(end.flatten())
        for linear in pending:
            linear.bias = None  # type: ignore[assignment]
        size = start.numel()
        parts = torch.eye(size, dtype=torch.float64).reshape(size, *start.shape[1:]).split(256)
        weights.append(torch.cat([_run(pending, part).flatten(1) for part in parts]).mT.contiguous())
        start, pending = torch.zeros_like(end), []
        if module is not None:
            activations.append(names[type(module)])
    return Feedforward(tuple(weights), tuple(biases), tuple(activations))


def _run(modules: Sequence[nn.Module], x: Tensor) -> Tensor:
    for module in modules:
        x = module(x)
    return x


@dataclass(frozen=True)
class _Linear:
    """The operators since the last activation and what their biases add up to, (1, *shape)."""

    operators: list[Operator]
    added: Tensor | None

    def then(self, operator: Operator, bias: Tensor | None) -> "_Linear":
        added = None if self.added is None else operator.apply(self.added)
        if bias is not None:
            added = (0.0 if added is None else added) + expand(bias, operator.out_shape)
        return _Linear([*self.operators, operator], added)

    def matrix(self) -> Tensor:
        shape = self.operators[0].in_shape
        columns = math.prod(shape)
        found = []
        for start in range(0, columns, 256):
            x = torch.eye(columns, dtype=torch.float64)[start : start + 256].reshape(-1, *shape)
            for operator in self.operators:
                x = operator.apply(x)
            found.append(x.flatten(1))
        return torch.cat(found).mT.contiguous().cpu()

    def offset(self) -> Tensor:
        if self.added is None:
            return torch.zeros(math.prod(self.operators[-1].out_shape), dtype=torch.float64)
        return self.added.flatten().cpu()


def expand(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """One value a channel (C,) as one value a feature of a sample, (1, *shape)."""
    return values.reshape(-1, *[1] * (len(shape) - 1)).expand(shape)[None]


def _check_size(sizes: Sequence[int]) -> None:
    """Raises `NotCertifiableError` for layers of these sizes, from the input to the output."""
    entries = sum(p * q for p, q in pairwise(sizes))
    if entries > LARGEST_NETWORK:
        raise NotCertifiableError(
            f"the network {'-'.join(map(str, sizes))} has {entries:,} matrix entries, more than the "
            f"{LARGEST_NETWORK:,} that are worked with; take a smaller image size, or certify, which needs no matrices"
        )
