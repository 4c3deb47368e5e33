"""Layers one after the other, run as the folded network would be."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from .explicit import Step, collect, out_shape
from .operators import Operator, multiply

__all__ = ["IMAGES_AT_ONCE", "LipschitzSequential"]

# On a CPU more images than this are run in parts: what stands between two layers then stays in the cache, and in memory
# that the allocator keeps instead of fetching it anew from the system.
IMAGES_AT_ONCE = 64


class LipschitzSequential(nn.Sequential):
    """`nn.Sequential` for the package's layers, with the linear maps between two activations multiplied.

    What one layer transforms back and the next one transforms again is left out: ``B_k A_{k-1}^T`` is one operator, as
    in a folded network (Wang and Manchester, 2023, Theorem 3.1), made anew from the parameters in every forward. The
    function is that of the layers one by one, which is how they run where a layer cannot say its factors (it has no
    ``steps``), where a hook watches a layer, and under tracing and compilation.
    """

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting() or not can_link(self, x):
            for layer in self:
                x = layer(x)
            return x
        return run_linked(self, x)

    def explicit(self, in_shape: tuple[int, ...]) -> list[Step]:
        """The layers' explicit steps on samples of ``in_shape``, in float64."""
        return collect(self.named_children(), in_shape)


def can_link(layers: nn.Sequential, x: Tensor) -> bool:
    """Whether `run_linked` may take the place of ``layers`` for the input ``x``."""
    if isinstance(x, torch.fx.Proxy) or torch.compiler.is_compiling() or torch.jit.is_tracing() or x.is_meta:
        return False
    return len(layers) > 1 and all(hasattr(layer, "steps") and not _is_watched(layer) for layer in layers)


def _is_watched(layer: nn.Module) -> bool:
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return any(len(kind) > 0 for kind in hooks)


def run_linked(layers: Iterable[Any], x: Tensor) -> Tensor:
    """Sandwich layers on ``x`` with neighbouring factors multiplied, in their parameters' precision, float32 or better.

    A layer's ``steps(in_shape)`` are an `Affine` without bias, or none, and then one `Sandwich`.
    """
    with torch.autocast(x.device.type, enabled=False):
        maps = _link(layers, tuple(x.shape[1:]))
        if x.device.type != "cpu" or x.shape[0] <= IMAGES_AT_ONCE:
            return _run(maps, x).to(x.dtype)
        return torch.cat([_run(maps, part) for part in x.split(IMAGES_AT_ONCE)]).to(x.dtype)


_Map: TypeAlias = Callable[[Tensor], Tensor]


def _link(layers: Iterable[Any], in_shape: tuple[int, ...]) -> list[_Map]:
    """The layers as the maps of a folded network: linear ones, and in between activations."""
    root = math.sqrt(2.0)
    maps: list[_Map] = []
    pending: list[Operator] = []  # linear maps since the last activation, in order
    for layer in layers:
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
    return maps + _linear(pending, None)


def _linear(operators: Sequence[Operator], bias: Tensor | None) -> list[_Map]:
    *first, last = [operator.prepared() for operator in multiply(operators)]
    return [*(partial(operator, bias=None) for operator in first), partial(last, bias=bias)]


def _run(maps: Sequence[_Map], x: Tensor) -> Tensor:
    for apply in maps:
        x = apply(x)
    return x
