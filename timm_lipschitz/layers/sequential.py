"""Layers one after the other, run as the folded network would be."""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..errors import InvalidInputError
from .explicit import IN_ORDER, children_in_order, collect
from .fusing import Fusible
from .layout import join_batches
from .operators import Operator, multiply
from .steps import Activation, Bounded, Residual, Sandwich, Step, out_shape

__all__ = ["IMAGES_AT_ONCE", "LipschitzSequential"]

# On a CPU more images than this are run in parts: what stands between two layers then stays in the cache, and in memory
# that the allocator keeps instead of fetching it anew from the system.
IMAGES_AT_ONCE = 64


class LipschitzSequential(Fusible, nn.Sequential):
    """`nn.Sequential` for the package's layers, with the linear maps between two activations multiplied.

    What one layer transforms back and the next one transforms again is left out: ``B_k A_{k-1}^T`` is one operator, as
    in a folded network (Wang and Manchester, 2023, Theorem 3.1), made anew from the parameters in every forward. The
    function is that of the layers one by one, which is how they run where a layer cannot say its factors (it has no
    ``steps``), where a hook watches a layer, and under tracing and compilation.

    With ``in_shape``, the (C, H, W) of its images, it is a network of its own, to be folded, certified and evaluated::

        LipschitzSequential(SandwichConv2d(1, 16), Flatten(), ContractionHead(16 * 28 * 28, 10), in_shape=(1, 28, 28))

    Layers are the package's, modules whose class has a bound by `register_bound`, and containers of them.
    """

    # For TorchScript, which would otherwise read or compile it. (No annotation: it does not know ClassVar.)
    __jit_ignored_attributes__ = __jit_unused_properties__ = ["lipschitz"]  # noqa: RUF012

    def __init__(self, *layers: Any, in_shape: tuple[int, ...] | None = None):
        super().__init__(*layers)
        self.in_shape = None if in_shape is None else tuple(in_shape)

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():  # alone in its condition: TorchScript then leaves the rest uncompiled
            for layer in self:
                x = layer(x)
            return x
        return self.forward_intermediates(x, [])[0]

    @torch.jit.unused
    def forward_intermediates(self, x: Tensor, indices: list[int]) -> tuple[Tensor, list[Tensor]]:
        """The last layer's output, exactly that of ``forward``, and in order those of the layers in ``indices``."""
        if can_link(self, x):
            return run_linked(self, x, indices)
        taken = []
        for index, layer in enumerate(self):
            x = layer(x)
            if index in indices:
                taken.append(x)
        return x, taken

    def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
        """The layers' explicit steps on samples of ``in_shape``, in float64.

        Raises `InvalidInputError` for another shape than the network's own, and as `collect`.
        """
        if self.in_shape is not None and tuple(in_shape) != self.in_shape:
            raise InvalidInputError(f"the network was composed for images {self.in_shape}, not {tuple(in_shape)}")
        return collect(children_in_order(self), tuple(in_shape))

    @property
    def lipschitz(self) -> float:
        """L2 bound, images of ``in_shape`` -> outputs: the product of the layers' bounds.

        1 for sandwich and residual layers and activations, what a rule asserts, and the measured norm of other
        operators. Certificates count what layers miss of 1 too. Raises `InvalidInputError` where the network does not
        know its ``in_shape``.
        """
        if self.in_shape is None:
            raise InvalidInputError(
                "the bound of a LipschitzSequential depends on its images; make it with in_shape=(C, H, W)"
            )
        with torch.no_grad():
            return math.prod(_nominal(step) for step in self.explicit(self.in_shape))

    def own_shape(self) -> tuple[tuple[int, ...], bool] | None:
        if self.in_shape is not None:
            return self.in_shape, True
        first = next(iter(self), None)
        known = first.own_shape() if isinstance(first, Fusible) else None
        return known if known is not None and known[1] else None  # layers for every size are fused one by one


IN_ORDER.add(LipschitzSequential.forward)


def _nominal(step: Step) -> float:
    if isinstance(step, Sandwich | Activation | Residual):
        return 1.0
    return step.bound if isinstance(step, Bounded) else step.operator.norm_bound()


def can_link(layers: nn.Sequential, x: Tensor) -> bool:
    """Whether `run_linked` may take the place of ``layers`` for the input ``x``."""
    if isinstance(x, torch.fx.Proxy) or torch.compiler.is_compiling() or torch.jit.is_tracing() or x.is_meta:
        return False
    return len(layers) > 1 and all(hasattr(layer, "steps") and not _is_watched(layer) for layer in layers)


def _is_watched(layer: nn.Module) -> bool:
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return any(len(kind) > 0 for kind in hooks)


def run_linked(layers: Iterable[Any], x: Tensor, indices: Collection[int] = ()) -> tuple[Tensor, list[Tensor]]:
    """Sandwich layers on ``x`` with neighbouring factors multiplied, in their parameters' precision, float32 or better.

    Under autocast so are the factors and their products; those with activations are in autocast's dtype. A layer's
    ``steps(in_shape)`` are an `Affine` without bias, or none, and then one `Sandwich`. Returned are the last layer's
    output, and in order those of the layers in ``indices``.
    """
    with torch.autocast(x.device.type, enabled=False):
        maps = _link(layers, tuple(x.shape[1:]), indices)
    if x.device.type != "cpu" or x.shape[0] <= IMAGES_AT_ONCE:
        outputs = _run(maps, x)
    else:
        parts = zip(*(_run(maps, part) for part in x.split(IMAGES_AT_ONCE)), strict=True)
        outputs = [join_batches(part) for part in parts]
    *taken, last = [y.to(x.dtype) for y in outputs]
    return last, taken


_Map: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Output:
    """The maps from an activation to an output that is wanted; the network goes on from the activation."""

    maps: list[_Map]


def _link(layers: Iterable[Any], in_shape: tuple[int, ...], indices: Collection[int]) -> list[_Map | _Output]:
    """The layers as the maps of a folded network: linear ones, and in between activations and outputs."""
    root = math.sqrt(2.0)
    maps: list[_Map | _Output] = []
    pending: list[Operator] = []  # linear maps since the last activation, in order
    for index, layer in enumerate(layers):
        *before, sandwich = layer.steps(in_shape)
        in_shape = out_shape(sandwich)
        pending += [step.operator for step in before]
        if sandwich.log_scale is None:
            pending.append(sandwich.b.scaled(root))
            behind = sandwich.a.transposed().scaled(root)
        else:
            scale = torch.exp(sandwich.log_scale)
            pending.append(sandwich.b.scaled(root / scale))
            behind = sandwich.a.transposed().scaled(root, scale)
        maps += [*_linear(pending, sandwich.bias), layer.act]
        pending = [behind]
        if index in indices:
            maps.append(_Output(_linear(pending, None)))
    return [*maps, _Output(_linear(pending, None))]


def _linear(operators: Sequence[Operator], bias: Tensor | None) -> list[_Map]:
    *first, last = [operator.prepared() for operator in multiply(operators)]
    return [*(_with_bias(apply, None) for apply in first), _with_bias(last, bias)]


def _with_bias(apply: Callable[[Tensor, Tensor | None], Tensor], bias: Tensor | None) -> _Map:
    return lambda x: apply(x, bias)


def _run(maps: Sequence[_Map | _Output], x: Tensor) -> list[Tensor]:
    outputs = []
    for step in maps:
        if isinstance(step, _Output):
            y = x
            for apply in step.maps:
                y = apply(y)
            outputs.append(y)
        else:
            x = step(x)
    return outputs
