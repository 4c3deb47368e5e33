"""The SDP certificate: multipliers that prove a network's Lipschitz bound to anyone, exported with the network.

A sandwich network satisfies by construction the matrix inequality of LipSDP (Fazlyab et al., 2019), with multipliers
that its parameters give away (Wang and Manchester, 2023, theorem 3.1, with ``Lambda = Psi^2`` as in its proof D.3).
``check_certificate.py`` states the inequality and proves it in floating point; it needs numpy alone, and a copy of it
goes with every bundle::

    certificate.safetensors   weight.00 ..., bias.00 ..., multiplier.00 ...
    certificate.json          lipschitz: the proved bound, activations, the hash of the weights
    check_certificate.py

A convolution is a matrix here, quadratic in the image's size: dense networks of any usual width have a bundle, and
convolutional ones of small images. One that is too large is refused before any matrix is made; `certify` proves the
same bound layer by layer, without matrices, for networks of every size. On the command line: ``timm-lipschitz export
certificate``.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from torch import Tensor, nn

from ..errors import CheckpointError, InvalidInputError, NotCertifiableError
from ..folding import FoldedNetwork, explicit_steps
from ..layers import Activation, Sandwich, Step
from ..layers.activations import is_homogeneous
from ..records import check_writable, write_all_atomic
from . import check_certificate
from .bounds import step_bound
from .check_certificate import Certificate, MalformedError, NotProvedError, decimal_up
from .feedforward import Feedforward, expand, feedforward, folded_feedforward

__all__ = [
    "Certificate",
    "built_in_multipliers",
    "check_bundle",
    "decimal_up",
    "prove_lipschitz",
    "sdp_certificate",
    "write_bundle",
]

# A network that needs more room than this is not what its parameters say.
LARGEST_LOOSENING = 1e-3


def sdp_certificate(
    model: nn.Module, in_shape: tuple[int, ...] | None = None, dtype: torch.dtype = torch.float64
) -> Certificate:
    """A proved certificate of ``model`` with its built-in multipliers.

    Of a folded network, loaded or edited, the weights that are there are proved, for the bound that it names.

    ``dtype`` is what the folded weights are rounded to first: the certificate then speaks of a network that runs with
    float32 weights. ``lipschitz`` of the result bounds pixels -> logits, and may be below the nominal bound where the
    last layer is less steep than it might be.

    Raises `NotCertifiableError` for a model without explicit operators, too large for matrices, or with weights for
    which nothing can be proved; `NonFiniteError` for NaN or infinite weights.
    """
    if isinstance(model, FoldedNetwork):
        network = folded_feedforward(model)
        bound, built_in = model.lipschitz, _folded_multipliers(network)
    else:
        steps = explicit_steps(model, in_shape)
        network = feedforward(steps)
        bound, built_in = built_in_multipliers(steps)
    rounded = replace(
        network,
        weights=tuple(weight.to(dtype).double() for weight in network.weights),
        biases=tuple(bias.to(dtype).double() for bias in network.biases),
    )
    return prove_lipschitz(rounded, built_in, bound)


def built_in_multipliers(steps: Sequence[Step]) -> tuple[float, list[Tensor]]:
    """The bound gamma of explicit steps and the diagonals of the Lambda_k that prove it in real arithmetic.

    With n_k the bound ``||[A_k B_k]||^2`` of sandwich layer k and c_k the product of the bounds of all steps before it,
    ``Lambda_k = Psi_k^2 gamma / (c_k^2 n_k)``: weighted so, the layers' inequalities ``||h_out||^2 <= n_k^2
    ||h_in||^2`` add up to the network's. Where the scalings are balanced, sqrt(gamma) before and behind, it is Psi_k^2.
    An activation that stands alone is such a layer with n_k = 1.
    """
    bounds = [step_bound(step) for step in steps]
    gamma = math.prod(bounds)
    if not 0 < gamma < math.inf:
        raise NotCertifiableError(f"the layers' bounds multiply to {gamma!r}; a certificate needs a positive bound")
    found = []
    before = 1.0
    for step, bound in zip(steps, bounds, strict=True):
        if isinstance(step, Sandwich) and step.activation != "identity":
            squares = torch.ones(step.a.out_shape, dtype=torch.float64)
            if step.log_scale is not None:
                squares = torch.exp(2 * expand(step.log_scale.cpu(), step.a.out_shape))
            found.append(squares.flatten() * (gamma / before / before / bound))
        elif isinstance(step, Activation) and step.activation != "identity":
            found.append(torch.full((math.prod(step.shape),), gamma / before / before, dtype=torch.float64))
        before *= bound
    return gamma, found


def _folded_multipliers(network: Feedforward) -> list[Tensor]:
    """Ones: a positively homogeneous activation has no scales, and the package's networks balanced scalings."""
    if not all(is_homogeneous(name) for name in network.activations):
        raise NotCertifiableError(
            f"folding has absorbed the scales around {', '.join(sorted(set(network.activations)))}, and with them the "
            "multipliers; certify the network before it is folded, or find others with lipsdp"
        )
    return [torch.ones(n, dtype=torch.float64) for n in network.widths[1:-1]]


def prove_lipschitz(network: Feedforward, multipliers: Sequence[Tensor], lipschitz: float) -> Certificate:
    """A certificate of ``network`` for ``lipschitz``, loosened by as little as the proof in floating point needs.

    Raises `NotCertifiableError` where even the largest loosening, a relative `LARGEST_LOOSENING`, does not help, and
    `InvalidInputError` for multipliers that are not positive or do not fit the network.
    """
    try:
        claim = Certificate(
            float(lipschitz),
            tuple(weight.double().numpy() for weight in network.weights),
            tuple(bias.double().numpy() for bias in network.biases),
            tuple(multiplier.double().numpy() for multiplier in multipliers),
            tuple(network.activations),
        )
    except MalformedError as error:
        raise InvalidInputError(f"no certificate: {error}") from None
    loosening = 0.0
    while True:
        loosened = check_certificate.loosen(claim, loosening) if loosening else claim
        try:
            check_certificate.prove(loosened)
            return loosened
        except NotProvedError as error:
            loosening = max(4 * check_certificate.shift(claim), 4 * loosening)
            if loosening > LARGEST_LOOSENING:
                raise NotCertifiableError(f"no certificate: {error}") from None


def write_bundle(certificate: Certificate, folder: Path, **facts: object) -> None:
    """Writes a certificate, the network and the checker to ``folder``, atomically.

    ``facts`` (a model's name, its nominal bound) go into ``certificate.json``; the checker does not read them. Weights
    that float32 holds exactly are stored so. Raises `RunDirectoryError` where the folder cannot be written.
    """
    check_writable(folder)
    arrays = {}
    for k, (weight, bias) in enumerate(zip(certificate.weights, certificate.biases, strict=True)):
        arrays |= {f"weight.{k:02d}": _smallest(weight), f"bias.{k:02d}": _smallest(bias)}
    arrays |= {f"multiplier.{k:02d}": np.ascontiguousarray(m) for k, m in enumerate(certificate.multipliers)}
    tensors = safetensors.numpy.save(arrays)
    claim = {
        "lipschitz": certificate.lipschitz,
        "activations": list(certificate.activations),
        "widths": certificate.widths,
        "norm": "l2",
        "arithmetic": "real",
        "weights_sha256": hashlib.sha256(tensors).hexdigest(),
        **facts,
    }
    write_all_atomic(
        {
            folder / "certificate.safetensors": tensors,
            folder / "check_certificate.py": Path(check_certificate.__file__).read_bytes(),
            folder / "certificate.json": (json.dumps(claim, indent=2, allow_nan=False) + "\n").encode(),
        }
    )


def _smallest(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore"):
        single = array.astype(np.float32)
    return single if (single == array).all() else np.ascontiguousarray(array)


def check_bundle(folder: Path) -> Certificate:
    """The certificate in ``folder``, read and proved.

    Raises `CheckpointError` for files that are no certificate and `NotCertifiableError` for one that is not proved.
    """
    try:
        certificate = check_certificate.read_certificate(Path(folder))
        check_certificate.prove(certificate)
    except MalformedError as error:
        raise CheckpointError(f"{folder} holds no certificate: {error}") from None
    except NotProvedError as error:
        raise NotCertifiableError(f"the certificate in {folder} is not proved: {error}") from None
    return certificate
