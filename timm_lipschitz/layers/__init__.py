"""Lipschitz-bounded layers: one parameterization a file, each with its explicit operators."""

from .activations import ACTIVATIONS
from .cayley import cayley, cayley_inverse
from .explicit import Affine, Sandwich, Step, collect
from .heads import ContractionHead, NormalizedLinear
from .operators import (
    Circulant,
    Dense,
    Downsampled,
    Flattening,
    MatrixOperator,
    Operator,
    Pointwise,
    Scaling,
    SpaceToDepth,
    StridedCirculant,
    multiply,
)
from .rescaling import Flatten, Rescale
from .sandwich_fourier import SandwichFourierConv2d
from .sandwich_linear import LipschitzLinear, SandwichLinear
from .sequential import LipschitzSequential

__all__ = [
    "ACTIVATIONS",
    "Affine",
    "Circulant",
    "ContractionHead",
    "Dense",
    "Downsampled",
    "Flatten",
    "Flattening",
    "LipschitzLinear",
    "LipschitzSequential",
    "MatrixOperator",
    "NormalizedLinear",
    "Operator",
    "Pointwise",
    "Rescale",
    "Sandwich",
    "SandwichFourierConv2d",
    "SandwichLinear",
    "Scaling",
    "SpaceToDepth",
    "Step",
    "StridedCirculant",
    "cayley",
    "cayley_inverse",
    "collect",
    "multiply",
]
