"""Lipschitz-bounded layers: one parameterization a file, each with its explicit operators."""

from .activations import ACTIVATIONS
from .aol import AOLLinear
from .aol_conv import AOLConv2d
from .cayley import cayley, cayley_inverse
from .explicit import collect
from .fusing import FusedLayers
from .heads import ContractionHead, NormalizedLinear
from .operators import (
    Circulant,
    Convolution,
    Dense,
    Downsampled,
    Flattening,
    MatrixOperator,
    Operator,
    Pointwise,
    Pooling,
    Scaling,
    SpaceToDepth,
    StridedCirculant,
    StridedConvolution,
    multiply,
)
from .orthogonal import OrthogonalLinear
from .orthogonal_fourier import OrthogonalFourierConv2d
from .pooling import GridPool2d
from .registered import register_bound
from .rescaling import Flatten, Rescale
from .sandwich_conv import SandwichConv2d
from .sandwich_fourier import SandwichFourierConv2d
from .sandwich_linear import LipschitzLinear, SandwichLinear
from .sequential import LipschitzSequential
from .sll import SLLLinear
from .sll_conv import PadChannels, SLLConv2d
from .steps import Activation, Affine, Bounded, Residual, Sandwich, Step

__all__ = [
    "ACTIVATIONS",
    "AOLConv2d",
    "AOLLinear",
    "Activation",
    "Affine",
    "Bounded",
    "Circulant",
    "ContractionHead",
    "Convolution",
    "Dense",
    "Downsampled",
    "Flatten",
    "Flattening",
    "FusedLayers",
    "GridPool2d",
    "LipschitzLinear",
    "LipschitzSequential",
    "MatrixOperator",
    "NormalizedLinear",
    "Operator",
    "OrthogonalFourierConv2d",
    "OrthogonalLinear",
    "PadChannels",
    "Pointwise",
    "Pooling",
    "Rescale",
    "Residual",
    "SLLConv2d",
    "SLLLinear",
    "Sandwich",
    "SandwichConv2d",
    "SandwichFourierConv2d",
    "SandwichLinear",
    "Scaling",
    "SpaceToDepth",
    "Step",
    "StridedCirculant",
    "StridedConvolution",
    "cayley",
    "cayley_inverse",
    "collect",
    "multiply",
    "register_bound",
]
