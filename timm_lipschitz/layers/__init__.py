"""Lipschitz-bounded layers: one parameterization a file, each with its explicit operators."""

from .activations import ACTIVATIONS
from .cayley import cayley, cayley_inverse
from .explicit import Affine, Sandwich, Step, collect
from .heads import ContractionHead, NormalizedLinear
from .operators import (
    Circulant,
    Dense,
    Flattening,
    MatrixOperator,
    Operator,
    Pointwise,
    Scaling,
    SpaceToDepth,
    StridedCirculant,
)
from .rescaling import Flatten, Rescale
from .sandwich_fourier import SandwichFourierConv2d
from .sandwich_linear import LipschitzLinear, SandwichLinear

__all__ = [
    "ACTIVATIONS",
    "Affine",
    "Circulant",
    "ContractionHead",
    "Dense",
    "Flatten",
    "Flattening",
    "LipschitzLinear",
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
]
