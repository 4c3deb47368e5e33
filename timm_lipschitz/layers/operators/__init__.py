"""Explicit linear operators: what remains of a layer once its parameterization is gone.

An operator maps one sample of ``in_shape`` to one of ``out_shape``, (features,) or (C, H, W); ``apply`` takes a batch
of them. It knows how to multiply itself with a neighbour where the product is no dearer than the two (`then`) and the
module that executes it. Operators with a matrix also know their transpose, absorb scalings of their channels and stand
beside one another. Matrices are float64.
"""

from .base import MatrixOperator, Operator
from .circulant import Circulant, Downsampled, StridedCirculant
from .convolution import Convolution
from .dense import Dense
from .pointwise import Pointwise
from .pooling import Pooling
from .product import multiply, product_error
from .rearrangement import Flattening, SpaceToDepth
from .rounding import gamma, modulus_norm, product_up, row_norms, slack
from .scaling import Scaling
from .spectral import convolution_bound, spectral_bound
from .strided import StridedConvolution

__all__ = [
    "Circulant",
    "Convolution",
    "Dense",
    "Downsampled",
    "Flattening",
    "MatrixOperator",
    "Operator",
    "Pointwise",
    "Pooling",
    "Scaling",
    "SpaceToDepth",
    "StridedCirculant",
    "StridedConvolution",
    "convolution_bound",
    "gamma",
    "modulus_norm",
    "multiply",
    "product_error",
    "product_up",
    "row_norms",
    "slack",
    "spectral_bound",
]
