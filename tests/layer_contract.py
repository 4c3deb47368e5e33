"""What every Lipschitz layer must do: cases to run a layer through, in float64 wherever a bound is checked.

A test module lists its layers as `LayerCase`s, parametrises a fixture ``case`` with them, and inherits
`LayerContract`::

    @pytest.fixture(params=[LayerCase("SandwichLinear", SandwichLinear, (5, 4), in_shape=(5,))], ids=str)
    def case(request): return request.param

    class TestLayers(LayerContract): ...
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from timm_lipschitz.layers import Activation, Affine, Residual, Sandwich, Step
from timm_lipschitz.layers.activations import make_activation

HALF_PRECISION = 0.05  # absolute: a few units of bfloat16 for values of order 1
DEPRECATED_TORCHSCRIPT = "ignore:`torch.jit.script` is deprecated:FutureWarning"


@dataclass(frozen=True)
class LayerCase:
    """A layer to test: ``build(*args, **kwargs, device=, dtype=)`` on samples of ``in_shape``.

    ``bound`` gives the layer's Lipschitz constant or an upper bound of it, by an independent computation.
    """

    name: str
    build: Callable[..., nn.Module]
    args: tuple[Any, ...]
    in_shape: tuple[int, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    bound: Callable[[nn.Module], float] = lambda layer: 1.0

    def __str__(self) -> str:
        return self.name

    def new(self, device: str | None = None, dtype: torch.dtype | None = None) -> nn.Module:
        return self.build(*self.args, **self.kwargs, device=device, dtype=dtype)

    def random(self, dtype: torch.dtype = torch.float64, seed: int = 0, spread: float = 1.0) -> nn.Module:
        """The layer with random parameters, not those that it starts with."""
        layer = self.new(dtype=dtype)
        randomize(layer, seed, spread)
        return layer

    def inputs(self, count: int = 3, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
        """(count, *in_shape), normally distributed."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(count, *self.in_shape, generator=generator, dtype=torch.float64).to(dtype)


@torch.no_grad()
def randomize(module: nn.Module, seed: int = 0, spread: float = 1.0) -> None:
    """Normally distributed parameters of standard deviation ``spread`` (log-scales and biases: half of it)."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(module.named_parameters()):
        scale = spread if name.endswith("weight") else spread / 2
        parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))


def jacobian(function: Callable[[Tensor], Tensor], sample: Tensor) -> Tensor:
    """Dense Jacobian (out, in) at one sample (without batch dimension)."""
    found = torch.autograd.functional.jacobian(lambda x: function(x[None])[0], sample)
    assert isinstance(found, Tensor)
    return found.reshape(-1, sample.numel())


def dense_matrix(function: Callable[[Tensor], Tensor], in_shape: tuple[int, ...]) -> Tensor:
    """Matrix (out, in) of a linear function on batches of samples, column by column, in float64."""
    size = math.prod(in_shape)
    return function(torch.eye(size, dtype=torch.float64).reshape(size, *in_shape)).flatten(1).T


def run_steps(steps: list[Step], x: Tensor) -> Tensor:
    """The function that explicit steps describe, by their definition, in float64."""
    for step in steps:
        if isinstance(step, Affine):
            x = step.operator.apply(x)
            if step.bias is not None:
                x = x + _per_channel(step.bias, x)
            continue
        if isinstance(step, Activation):
            x = make_activation(step.activation)(x if step.bias is None else x + _per_channel(step.bias, x))
            continue
        if isinstance(step, Residual):
            v = step.m.apply(x)
            psi = torch.ones(1, dtype=x.dtype) if step.log_scale is None else torch.exp(step.log_scale)
            z = make_activation(step.activation)(v / _per_channel(psi, v) + _per_channel(step.bias, v))
            x = x - 2.0 * dense_apply_transposed(step.m, z * _per_channel(psi, v))
            continue
        assert isinstance(step, Sandwich)
        x = math.sqrt(2.0) * step.b.apply(x)
        psi = torch.ones(1, dtype=x.dtype) if step.log_scale is None else torch.exp(step.log_scale)
        x = x / _per_channel(psi, x)
        if step.bias is not None:
            x = x + _per_channel(step.bias, x)
        x = make_activation(step.activation)(x) * _per_channel(psi, x)
        x = math.sqrt(2.0) * dense_apply_transposed(step.a, x)
    return x


def dense_apply_transposed(operator: Any, x: Tensor) -> Tensor:
    """The transposed operator by its dense matrix: (B, *out_shape) -> (B, *in_shape)."""
    matrix = dense_matrix(operator.apply, operator.in_shape)
    return (x.flatten(1) @ matrix).reshape(-1, *operator.in_shape)


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (x.dim() - 2))


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest deviation over the largest expected value."""
    return float(((found - expected).abs().max() / expected.abs().max()).detach())


class LayerContract:
    """Inherit it where a fixture ``case`` gives a `LayerCase`."""

    # The bound

    @pytest.mark.parametrize("seed", range(2))
    @pytest.mark.parametrize("spread", [0.1, 1.0, 30.0])
    def test_no_jacobian_exceeds_the_bound(self, case: LayerCase, seed: int, spread: float) -> None:
        layer = case.random(seed=seed, spread=spread)
        for sample in case.inputs(2, seed=seed + 10):
            norm = torch.linalg.matrix_norm(jacobian(layer, sample), 2)
            assert norm <= case.bound(layer) + 1e-9

    @pytest.mark.parametrize("distance", [1e-3, 10.0])
    def test_no_pair_of_points_exceeds_the_bound(self, case: LayerCase, distance: float) -> None:
        layer = case.random()
        near = case.inputs(32)
        far = near + distance * case.inputs(32, seed=2)
        with torch.no_grad():
            moved = (layer(near) - layer(far)).flatten(1).norm(dim=1)
        assert (moved <= case.bound(layer) * (near - far).flatten(1).norm(dim=1) * (1 + 1e-9)).all()

    # Precision

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
    def test_output_has_the_dtype_of_layer_and_input(self, case: LayerCase, dtype: torch.dtype) -> None:
        layer = case.random(dtype, spread=0.5)
        expected = copy.deepcopy(layer).double()(case.inputs())
        found = layer(case.inputs(dtype=dtype))
        assert found.dtype == dtype
        tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, HALF_PRECISION)
        assert (found.double() - expected).abs().max() < tolerance

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_float32_weights_take_inputs_of_another_dtype(self, case: LayerCase, dtype: torch.dtype) -> None:
        layer = case.random(torch.float32, spread=0.5)
        found = layer(case.inputs(dtype=dtype))
        assert found.dtype == dtype
        expected = copy.deepcopy(layer).double()(case.inputs())
        assert (found.double() - expected).abs().max() < (HALF_PRECISION if dtype == torch.bfloat16 else 1e-5)

    @pytest.mark.parametrize("how", ["bfloat16 weights", "float16 weights", "autocast"])
    def test_parameterization_is_never_computed_in_half_precision(
        self, case: LayerCase, how: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inverted: list[Tensor] = []
        real = torch.linalg.inv

        def inv(matrix: Tensor) -> Tensor:
            inverted.append(matrix)
            return real(matrix)

        layer, x = case.random(torch.float32, spread=0.5), case.inputs(dtype=torch.float32)
        expected = layer(x)
        monkeypatch.setattr(torch.linalg, "inv", inv)
        if how == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                found = layer(x)
        else:
            dtype = getattr(torch, how.split()[0])
            layer = layer.to(dtype)
            found = layer(x.to(dtype))
        assert all(matrix.dtype in (torch.float32, torch.complex64) for matrix in inverted)
        assert (found.float() - expected).abs().max() < HALF_PRECISION
        if how != "autocast":
            return
        # what autocast had no part in: the inverse is the one of the float32 weights, to float32 rounding
        with_autocast, inverted[:] = list(inverted), []
        layer(x)
        for one, other in zip(with_autocast, inverted, strict=True):
            assert (one - other).abs().max() < 1e-5

    # Derivatives

    def test_gradients_agree_with_finite_differences(self, case: LayerCase) -> None:
        layer = case.random(spread=0.5)
        names, values = zip(*layer.named_parameters(), strict=True)

        def function(x: Tensor, *parameters: Tensor) -> Tensor:
            return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

        leaves = [value.detach().requires_grad_() for value in values]
        assert torch.autograd.gradcheck(function, (case.inputs(2).requires_grad_(), *leaves), fast_mode=True)

    # Statelessness

    def test_has_parameters_only_and_forward_leaves_them_alone(self, case: LayerCase) -> None:
        layer = case.random()
        attributes = set(vars(layer))
        before = {name: (p, p._version, p.detach().clone()) for name, p in layer.named_parameters()}
        for training in (True, False, True):
            layer.train(training)(case.inputs())
        assert set(vars(layer)) == attributes
        assert list(layer.buffers()) == []
        after = dict(layer.named_parameters())
        assert set(after) == set(before)
        for name, (parameter, version, value) in before.items():
            assert after[name] is parameter
            assert parameter._version == version
            assert torch.equal(parameter, value)

    @pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
    def test_state_dict_round_trip_is_exact(self, case: LayerCase, training: bool) -> None:
        source, target = (
            case.random(torch.float32, seed=3).train(training),
            case.random(torch.float32, seed=4).train(training),
        )
        x = case.inputs(dtype=torch.float32)
        assert not torch.equal(source(x), target(x))  # also: whatever could be cached is cached now
        target.load_state_dict(source.state_dict(), strict=True)
        assert torch.equal(source(x), target(x))

    def test_changed_weights_show_at_once_in_evaluation_mode(self, case: LayerCase) -> None:
        layer = case.random().eval()
        x = case.inputs()
        before = layer(x)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.mul_(-0.5)
        expected = case.random().eval()
        expected.load_state_dict(layer.state_dict())
        assert not torch.allclose(layer(x), before)
        assert torch.equal(layer(x), expected(x))

    def test_copies_and_pickles(self, case: LayerCase) -> None:
        layer = case.random()
        x = case.inputs()
        layer(x)
        for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):  # noqa: S301
            assert torch.equal(twin(x), layer(x))
            with torch.no_grad():
                next(twin.parameters()).add_(0.1)
            assert not torch.equal(twin(x), layer(x))

    def test_samples_of_a_batch_do_not_touch_each_other(self, case: LayerCase) -> None:
        layer, x = case.random(), case.inputs(40)  # products with few samples may be computed in another way
        together = layer(x)
        for index in range(0, 40, 13):
            torch.testing.assert_close(layer(x[index : index + 1]), together[index : index + 1], rtol=0, atol=1e-12)

    # Devices and compilers

    def test_meta_device_then_weights(self, case: LayerCase) -> None:
        layer = case.new(device="meta")
        assert all(parameter.is_meta for parameter in layer.parameters())
        source = case.random(torch.float32)
        x = case.inputs(dtype=torch.float32)
        assert layer(x.to("meta")).shape == source(x).shape
        layer.load_state_dict(source.state_dict(), assign=True)
        assert torch.equal(layer(x), source(x))

    def test_compiles_into_one_graph(self, case: LayerCase) -> None:
        layer, x = case.random(torch.float32), case.inputs(dtype=torch.float32)
        torch._dynamo.reset()
        compiled = torch.compile(layer, fullgraph=True, backend="eager")
        assert torch.allclose(compiled(x), layer(x), atol=1e-6)

    def test_exports(self, case: LayerCase) -> None:
        layer, x = case.random(torch.float32).eval(), case.inputs(dtype=torch.float32)
        program = torch.export.export(layer, (x,))
        assert torch.allclose(program.module()(x), layer(x), atol=1e-6)

    @pytest.mark.filterwarnings(DEPRECATED_TORCHSCRIPT)
    def test_scripts(self, case: LayerCase) -> None:
        layer, x = case.random(torch.float32), case.inputs(dtype=torch.float32)
        assert torch.allclose(torch.jit.script(layer)(x), layer(x), atol=1e-6)

    # What folding and certification see

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_explicit_operators_are_the_layer_in_float64(self, case: LayerCase, dtype: torch.dtype) -> None:
        layer, x = case.random(dtype), case.inputs()
        with torch.no_grad():
            steps = layer.explicit(case.in_shape)
            expected = copy.deepcopy(layer).double()(x)
        assert relative_error(run_steps(steps, x), expected) < 1e-12

    def test_explicit_operators_refuse_what_is_not_finite(self, case: LayerCase) -> None:
        from timm_lipschitz.errors import NonFiniteError

        for name, _ in case.random().named_parameters():
            for value in (math.nan, math.inf, -math.inf):
                layer = case.random()
                with torch.no_grad():
                    layer.get_parameter(name).view(-1)[-1] = value
                with pytest.raises(NonFiniteError, match=rf"{type(layer).__name__}\.{name}: 1 of"):
                    layer.explicit(case.in_shape)
