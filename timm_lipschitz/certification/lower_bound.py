"""Empirical Lipschitz constants: how steep a network is seen to be, a lower bound to set beside the certified one.

The steepest chord ``||f(x + d) - f(x)|| / ||d||`` among many. Each chord starts along the steepest direction of the
Jacobian, found by power iteration with products ``J v`` and ``J^T u``, climbs by gradient ascent of its slope in x and
d (a piecewise linear network has no gradient of its Jacobian, but chords cross the kinks), and is shortened along the
Jacobian at the end. Everything in float64; two points show it. A thousand units of
rounding of their outputs are taken off, an allowance and no proof: large values that cancel inside may round to more.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import InvalidInputError, NonFiniteError, NotCertifiableError

__all__ = ["Slope", "lipschitz_lower_bound"]

SHORTEST = 1e-5  # of a chord, relative to the scale of the points: below, rounding shows in the slope
POWER_ITERATIONS = 12


@dataclass(frozen=True, eq=False)
class Slope:
    """The steepest pair of points that was found, one sample each, float64.

    ``value`` is ``||f(x) - f(other)|| / ||x - other||``, less the allowance for rounding.
    """

    value: float
    x: Tensor
    other: Tensor


def lipschitz_lower_bound(
    model: nn.Module, points: Tensor, *, random_points: int = 32, restarts: int = 2, steps: int = 100, seed: int = 0
) -> Slope:
    """A lower bound of the Lipschitz constant (L2) of ``model`` on the whole space.

    ``points`` (N, ...) are samples to start from; ``random_points`` more are drawn uniformly between their smallest and
    their largest value. Every start is tried with ``restarts`` random directions and lengths and ``steps`` steps of
    ascent.

    The model is copied to float64 and left as it is. Raises `NotCertifiableError` in training mode, `InvalidInputError`
    for points that are no batch of finite samples, `NonFiniteError` where the network gives NaN or infinity.
    """
    if model.training:
        raise NotCertifiableError(f"{type(model).__name__} is in training mode; call model.eval() first")
    if points.dim() < 2 or points.numel() == 0 or not bool(torch.isfinite(points).all()):
        raise InvalidInputError(f"points must be a non-empty batch of finite samples, not shape {tuple(points.shape)}")
    function = copy.deepcopy(model).double().requires_grad_(False)
    device = next((p.device for p in function.parameters()), points.device)
    generator = torch.Generator().manual_seed(seed)

    def random(kind: str, *shape: int) -> Tensor:
        return getattr(torch, kind)(*shape, generator=generator, dtype=torch.float64).to(device)

    points = points.detach().to(device, torch.float64)
    low, high = points.min(), points.max()
    scale = max(float(high - low), float(high.abs()), 1e-3)
    drawn = low + (high - low) * random("rand", random_points, *points.shape[1:])
    x = torch.cat([points, drawn]).repeat_interleave(restarts, 0)
    lengths = scale * 10 ** (-3 * random("rand", len(x), *[1] * (x.dim() - 1)))
    with torch.autocast(x.device.type, enabled=False):
        v = _steepest_direction(function, x, _unit(random("randn", *x.shape)))
        x, d = _climb(function, x, lengths * v, steps, scale)
        candidates = [(x, d)]
        for near in (x, x + d, x + d / 2):
            v = _steepest_direction(function, near, _unit(d))
            candidates += [(near, scale * 10.0**-exponent * v) for exponent in range(1, 6)]
        return max((_steepest_chord(function, x, d) for x, d in candidates), key=lambda slope: slope.value)


def _steepest_direction(function: nn.Module, x: Tensor, v: Tensor) -> Tensor:
    """Unit directions, by power iteration with ``J^T J`` at each sample of x, from v."""
    x = x.detach().requires_grad_()
    y = _outputs(function, x)
    if not y.requires_grad:  # a constant
        return v
    weight = torch.zeros_like(y, requires_grad=True)
    (transposed,) = torch.autograd.grad(y, x, weight, create_graph=True)  # J^T w, linear in w
    for _ in range(POWER_ITERATIONS):
        (image,) = torch.autograd.grad(transposed, weight, v, retain_graph=True)  # J v
        (back,) = torch.autograd.grad(y, x, image, retain_graph=True)
        v = torch.where(_norms(back) > 0, _unit(back), v)
    return v


def _climb(function: nn.Module, x: Tensor, d: Tensor, steps: int, scale: float) -> tuple[Tensor, Tensor]:
    """The steepest chord that each one passed through."""
    x, d = x.detach().requires_grad_(), d.detach().requires_grad_()
    optimizer = torch.optim.Adam([x, d])
    best_x, best_d, best = x.detach().clone(), d.detach().clone(), torch.zeros_like(_norms(x))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.03 * scale * (1 - step / steps)
        slope = _norms(_outputs(function, x + d) - _outputs(function, x)).reshape(_norms(d).shape) / _norms(d)
        steeper = slope.detach() > best
        best_x, best_d = torch.where(steeper, x.detach(), best_x), torch.where(steeper, d.detach(), best_d)
        best = torch.maximum(best, slope.detach())
        if not slope.requires_grad:
            break
        optimizer.zero_grad()
        (-torch.log(slope.clamp_min(1e-30))).sum().backward()
        optimizer.step()
        with torch.no_grad():
            d.mul_((SHORTEST * scale / _norms(d)).clamp_min(1.0))
    return best_x, best_d


@torch.no_grad()
def _steepest_chord(function: nn.Module, x: Tensor, d: Tensor) -> Slope:
    other = x + d
    y, far = _outputs(function, x).flatten(1), _outputs(function, other).flatten(1)
    # a margin of thousands of roundings of the outputs, and of the inputs times the slope
    hidden = 1e-12 * (_norms(y) + _norms(far) + y.shape[1] ** 0.5)
    distance = _norms((other - x).flatten(1))
    slopes = ((_norms(far - y) - hidden) / distance * (1 - 1e-12)).flatten().nan_to_num(nan=0.0, posinf=0.0)
    index = int(slopes.argmax())
    return Slope(max(float(slopes[index]), 0.0), x[index].cpu(), other[index].cpu())


def _outputs(function: nn.Module, x: Tensor) -> Tensor:
    y = function(x)
    if not bool(torch.isfinite(y).all()):
        raise NonFiniteError("the network gives NaN or infinite outputs; check its weights")
    return y


def _norms(x: Tensor) -> Tensor:
    """Euclidean norm of each sample, with ones in place of the other dimensions."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1).reshape(-1, *[1] * (x.dim() - 1))


def _unit(x: Tensor) -> Tensor:
    return x / _norms(x).clamp_min(1e-300)
