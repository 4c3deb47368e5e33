"""Checks a certificate: a proof of the Lipschitz constant (L2) of the network that is stored with it.

    python check_certificate.py [DIR]        0: proved, 1: not proved, 2: not a certificate

This one file needs Python and numpy, nothing else; it lies beside every exported certificate so that whoever doubts can
read it, run it, or rewrite it. ``DIR`` holds ``certificate.json`` (``lipschitz``, ``activations``) and
``certificate.safetensors`` (``weight.00`` ... ``weight.L``, ``bias.00`` ... ``bias.L``, ``multiplier.00`` ...
``multiplier.L-1``), which say what the network is::

    z_0 = sigma(W_0 x + b_0),   z_k = sigma(W_k z_{k-1} + b_k),   y = W_L z_{L-1} + b_L

**Theorem** (Fazlyab et al., 2019; Wang and Manchester, 2023, theorem 3.1). Let sigma act elementwise with slopes in
[0, 1], let Lambda_k be positive diagonal matrices, gamma > 0, and let the symmetric block-tridiagonal matrix H with
diagonal blocks ``gamma I, 2 Lambda_0, ..., 2 Lambda_{L-1}, gamma I`` and subdiagonal blocks ``-Lambda_0 W_0, ...,
-Lambda_{L-1} W_{L-1}, -W_L`` be positive semidefinite. Then ``||y - y'|| <= gamma ||x - x'||``.
*Proof.* Write d for differences and ``dv_k = W_k dz_{k-1}``. Slopes in [0, 1] give ``dz_k^T Lambda_k (dv_k - dz_k) >=
0``. The quadratic form of H at ``(dx, dz_0, ..., dz_{L-1}, dy / gamma)`` is ``gamma ||dx||^2 - 2 sum_k dz_k^T Lambda_k
(dv_k - dz_k) - ||dy||^2 / gamma``; it is not negative, and neither is the sum.

**H >= 0 in floating point.** With S a diagonal matrix of powers of two, which round nothing, the diagonal of ``T = S H
S`` lies in [1/2, 2]; H >= 0 if and only if T >= 0. Let F be *any* matrix, c > 0, and ``E = T - c I - F F^T``. Then
``T >= (c - ||E||) I``, so ``||E|| <= c`` proves it. F comes from a block Cholesky factorisation of ``T - c I``, whose
own rounding does not matter. E is computed, and its norm bounded by the largest row sum of ``|E|`` (for a symmetric
matrix), with everything that rounding can hide added, u = 2^-53:

- a computed inner product of n terms misses the exact one by at most ``g(n) = n u / (1 - n u)`` times the sum of the
  absolute values of its terms, in whatever order it is summed, with fused multiply-adds or without;
- one product or sum misses by at most u times its result;
- underflow adds less than 2^-500 in all, as numbers beyond 2^400 and multipliers outside 2^-400 ... 2^400 are refused;
- the bound is a sum of nonnegative terms, so its own rounding is less than a factor ``1 + 2^-20``.

Assumed of the machine: IEEE 754 binary64, round to nearest, matrix products by conventional (not Strassen-like) sums.
The verdict is about the network in real arithmetic with the stored weights; biases play no part in it.
"""

import argparse
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Context, Decimal
from pathlib import Path

import numpy as np

__all__ = [
    "Certificate",
    "MalformedError",
    "NotProvedError",
    "decimal_up",
    "loosen",
    "prove",
    "read_certificate",
    "read_safetensors",
    "shift",
]

UNIT = 2.0**-53
LARGEST = 2.0**400
UNDERFLOW = 2.0**-500
# Elementwise, every slope in [0, 1]: leaky_relu with the usual slope 0.01, elu with alpha 1, softplus with beta 1.
ACTIVATIONS = frozenset(
    {"relu", "leaky_relu", "identity", "tanh", "sigmoid", "elu", "softplus", "softsign", "hardtanh"}
)
LARGEST_HEADER = 10**7
_DTYPES = {"F64": "<f8", "F32": "<f4"}


class MalformedError(ValueError):
    """The files are no certificate, or a damaged one; or a value in them is not one that the theorem speaks about."""


class NotProvedError(ValueError):
    """The matrix inequality could not be proved, most often because it does not hold."""


@dataclass(frozen=True)
class Certificate:
    """A network and the claim about it; arrays are float64.

    ``weights[k]`` (n_k, n_{k-1}), ``biases[k]`` (n_k,), one more of them than of ``multipliers[k]`` (n_k,), the
    diagonal of Lambda_k.
    """

    lipschitz: float
    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    multipliers: tuple[np.ndarray, ...]
    activations: tuple[str, ...]

    @property
    def widths(self) -> list[int]:
        """Sizes of input, hidden layers and output."""
        return [self.weights[0].shape[1], *(len(weight) for weight in self.weights)]

    def __post_init__(self) -> None:
        depth = len(self.weights) - 1
        if depth < 0 or not (len(self.biases) - 1 == len(self.multipliers) == len(self.activations) == depth):
            raise MalformedError(
                f"{len(self.weights)} weights need as many biases and one fewer multiplier and activation, not "
                f"{len(self.biases)}, {len(self.multipliers)} and {len(self.activations)}"
            )
        for k, weight in enumerate(self.weights):
            _check_array(f"weight.{k:02d}", weight, (None, None if k == 0 else len(self.weights[k - 1])))
            _check_array(f"bias.{k:02d}", self.biases[k], (len(weight),))
        for k, multiplier in enumerate(self.multipliers):
            _check_array(f"multiplier.{k:02d}", multiplier, (len(self.weights[k]),))
            if not (multiplier >= 1 / LARGEST).all():
                raise MalformedError(
                    f"multiplier.{k:02d} goes down to {multiplier.min():.4g}; multipliers are positive, and not below "
                    f"{1 / LARGEST:.4g}"
                )
        if not 1 / LARGEST <= self.lipschitz <= LARGEST:
            raise MalformedError(
                f"lipschitz is {self.lipschitz!r}, not a number between {1 / LARGEST:.4g} and {LARGEST:.4g}"
            )
        for name in self.activations:
            if name not in ACTIVATIONS:
                raise MalformedError(
                    f"activation {name!r} is not known to be elementwise with slopes in [0, 1]; these are: "
                    f"{', '.join(sorted(ACTIVATIONS))}"
                )


def _check_array(name: str, array: np.ndarray, shape: tuple[int | None, ...]) -> None:
    fits = array.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True))
    if not fits or 0 in array.shape:
        raise MalformedError(
            f"{name} has shape {array.shape}, not ({', '.join('n' if n is None else str(n) for n in shape)}), none zero"
        )
    if array.dtype != np.float64:
        raise MalformedError(f"{name} is {array.dtype}; convert it to float64, which holds float32 values exactly")
    if not (np.abs(array) <= LARGEST).all():  # False for NaN
        raise MalformedError(f"{name} holds NaN, infinity or values beyond {LARGEST:.4g}")


# The proof


def prove(certificate: Certificate) -> float:
    """A proved lower bound, not negative, of the smallest eigenvalue of T; raises `NotProvedError` if there is none."""
    c = shift(certificate)
    factor = np.empty((0, 0))  # L_{k-1}, the diagonal block of F in the block row above
    sums: list[np.ndarray] = []  # row sums of |E|, block by block
    for k, (diagonal, below) in enumerate(_scaled_blocks(certificate)):
        if not (np.abs(below) <= 2).all():  # a definite T has |T_ij| <= sqrt(T_ii T_jj) < 2
            raise NotProvedError(_refusal(certificate, k))
        try:
            with np.errstate(all="ignore"):  # what overflows is never below c
                beside = np.linalg.solve(factor, below.T).T  # N_k with N_k L_{k-1}^T = T_{k,k-1}, nearly
                row = np.diag(diagonal - c)
                own = np.linalg.cholesky(row - beside @ beside.T)
        except np.linalg.LinAlgError:
            raise NotProvedError(_refusal(certificate, k)) from None
        both = np.concatenate([beside, own], axis=1)
        # the block row of |E|: T_{k,k-1} - N_k L_{k-1}^T, and T_{kk} - c I - [N_k L_k] [N_k L_k]^T
        left = _residual(below, UNIT * np.abs(below), beside, factor)
        here = _residual(row, np.diag(UNIT * diagonal), both, both)
        if sums:
            sums[-1] += left.sum(axis=0)  # the block above the diagonal is the transpose
        sums.append(left.sum(axis=1) + here.sum(axis=1))
        factor = own
    norm = float(np.concatenate(sums).max()) * (1 + 2.0**-20) + UNDERFLOW
    if not norm <= c:
        raise NotProvedError(f"rounding may hide {norm:.3g}, more than the {c:.3g} set aside for it")
    return math.nextafter(c - norm, 0.0)


def shift(certificate: Certificate) -> float:
    """The c of the proof: a few times what rounding can hide, as the rows of F have norms below sqrt2."""
    widths = [0, *certificate.widths, 0]
    rows = zip(widths, widths[1:], widths[2:], strict=False)
    return 8 * UNIT * max((before + here + 4) * (before + here + after + 4) for before, here, after in rows)


def loosen(certificate: Certificate, eta: float) -> Certificate:
    """The same network with ``gamma (1 + eta)^((L+1)/2)`` as the claim, and multipliers to match.

    Where H was singular, it is definite now: up to a congruence, ``(sqrt(1 + eta) - 1)`` times its diagonal was added.
    """
    depth = len(certificate.multipliers)
    growth = math.log1p(eta)
    claim = certificate.lipschitz * math.exp(growth * (depth + 1) / 2)
    multipliers = tuple(m * math.exp(growth * ((depth - 1) / 2 - k)) for k, m in enumerate(certificate.multipliers))
    return replace(certificate, lipschitz=math.nextafter(claim, math.inf), multipliers=multipliers)


def _scaled_blocks(certificate: Certificate) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """T by block rows: the diagonal (n_k,), exact, and ``T_{k,k-1}`` (n_k, n_{k-1}), every entry rounded once."""
    gamma, widths = certificate.lipschitz, certificate.widths
    diagonal = np.full(widths[0], gamma)
    scale = _power_of_two(diagonal)
    yield diagonal * scale * scale, np.empty((widths[0], 0))
    for k, weight in enumerate(certificate.weights):
        last = k == len(certificate.multipliers)
        factors = np.ones(widths[-1]) if last else certificate.multipliers[k]
        before, diagonal = scale, np.full(widths[-1], gamma) if last else 2 * factors
        scale = _power_of_two(diagonal)
        yield diagonal * scale * scale, -(factors * scale)[:, None] * (weight * before)


def _power_of_two(diagonal: np.ndarray) -> np.ndarray:
    """Powers of two s with ``1/2 <= s^2 d < 2``."""
    return np.ldexp(1.0, -(np.frexp(diagonal)[1] // 2))


def _residual(target: np.ndarray, missing: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Bounds every entry of ``|X - left right^T|``, for any X that ``target`` misses by at most ``missing``."""
    terms = left.shape[1]
    rounding = terms * UNIT / (1 - terms * UNIT) * (np.abs(left) @ np.abs(right).T)
    return np.abs(target - left @ right.T) * (1 + 2 * UNIT) + missing + rounding


def _refusal(certificate: Certificate, k: int) -> str:
    where = "output" if k == len(certificate.weights) else "input" if k == 0 else f"hidden layer {k - 1}"
    return (
        f"the matrix inequality is not strictly definite (found at the {where}): the network may be steeper than "
        f"{certificate.lipschitz!r}, the multipliers may not belong to it, or there is no room for rounding "
        "(see --loosen)"
    )


# Files


def read_certificate(folder: Path) -> Certificate:
    """The certificate in ``folder``; raises `MalformedError` for files that are missing, damaged or unclear."""
    path = folder / "certificate.json"
    try:
        claim = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_distinct, parse_constant=_no_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise MalformedError(f"{path} cannot be read: {error}") from None
    if not isinstance(claim, dict):
        raise MalformedError(f"{path} holds no JSON object")
    lipschitz, activations = claim.get("lipschitz"), claim.get("activations")
    if isinstance(lipschitz, bool) or not isinstance(lipschitz, int | float):
        raise MalformedError(f"{path}: lipschitz is {lipschitz!r}, not a number")
    if not isinstance(activations, list) or not all(isinstance(name, str) for name in activations):
        raise MalformedError(f"{path}: activations is not a list of names")
    tensors = read_safetensors(folder / "certificate.safetensors", claim.get("weights_sha256"))
    depth = len(activations)
    names = {
        "weight": [f"weight.{k:02d}" for k in range(depth + 1)],
        "bias": [f"bias.{k:02d}" for k in range(depth + 1)],
        "multiplier": [f"multiplier.{k:02d}" for k in range(depth)],
    }
    expected = {name for group in names.values() for name in group}
    if expected != set(tensors):
        raise MalformedError(
            f"{depth} activations go with the arrays {', '.join(sorted(expected))}; "
            f"missing: {', '.join(sorted(expected - set(tensors))) or 'none'}; "
            f"unexpected: {', '.join(sorted(set(tensors) - expected))[:200] or 'none'}"
        )
    weights, biases, multipliers = (tuple(tensors[name] for name in group) for group in names.values())
    try:
        return Certificate(float(lipschitz), weights, biases, multipliers, tuple(activations))
    except OverflowError:
        raise MalformedError(f"{path}: lipschitz is too large") from None


def read_safetensors(path: Path, sha256: object = None) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file as float64; only float32 and float64 are taken.

    Nothing is allocated before the header has been checked against the file's size: eight bytes for the header's
    length, the header, and the arrays side by side without a gap. Raises `MalformedError`.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, LARGEST_HEADER):
                raise MalformedError(f"{path}: a header of {length} bytes in a file of {size}")
            header = json.loads(file.read(length), object_pairs_hook=_distinct, parse_constant=_no_constant)
            layout = _layout(path, header, size - 8 - length)
            data = memoryview(file.read(size - 8 - length))
            if sha256 is not None:
                file.seek(0)
                found = hashlib.file_digest(file, "sha256").hexdigest()
                if found != sha256:
                    raise MalformedError(f"{path} is damaged: its SHA-256 is {found}, certificate.json says {sha256}")
        return {
            name: np.frombuffer(data[begin:end], dtype).reshape(shape).astype(np.float64)
            for name, (dtype, shape, begin, end) in layout.items()
        }
    except MalformedError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise MalformedError(f"{path} cannot be read: {error}") from None


def _layout(path: Path, header: object, available: int) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
    """dtype, shape and byte range of every array, checked: no overlap, no gap, nothing beyond the end."""
    if not isinstance(header, dict):
        raise MalformedError(f"{path}: the header is no JSON object")
    found: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        fields = entry if isinstance(entry, dict) else {}
        dtype = _DTYPES.get(str(fields.get("dtype")))
        shape, offsets = fields.get("shape"), fields.get("data_offsets")
        if dtype is None or not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:  # type: ignore[arg-type]
            raise MalformedError(f"{path}: {name[:100]!r} is not described as an array of type F64 or F32")
        begin, end = offsets  # type: ignore[misc]
        if end - begin != math.prod(shape) * np.dtype(dtype).itemsize or end > available:  # type: ignore[arg-type]
            raise MalformedError(f"{path}: {name[:100]!r}, {shape}, does not fit into bytes {begin} to {end}")
        found[name] = (dtype, tuple(shape), begin, end)  # type: ignore[arg-type]
    reached = 0
    for name, (_, _, begin, end) in sorted(found.items(), key=lambda item: item[1][2:]):
        if begin != reached:
            raise MalformedError(f"{path}: {name[:100]!r} starts at byte {begin}, not {reached}")
        reached = end
    if reached != available:
        raise MalformedError(f"{path}: the arrays take {reached} bytes of {available}")
    return found


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**53 for n in value)


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a number of JSON")


# The command


def decimal_up(value: float, digits: int = 12) -> str:
    """``value`` in decimal, never below it."""
    return str(Context(prec=digits, rounding=ROUND_CEILING).create_decimal(Decimal(value)))


def main(arguments: list[str] | None = None) -> int:
    """Checks the certificate that the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent, metavar="DIR")
    parser.add_argument(
        "--loosen",
        type=float,
        default=0.0,
        metavar="ETA",
        help="prove lipschitz * (1 + ETA)^((L+1)/2) instead, where the claim leaves no room for rounding",
    )
    options = parser.parse_args(arguments)
    if not 0 <= options.loosen <= 1:
        parser.error(f"--loosen is between 0 and 1, not {options.loosen}")
    try:
        certificate = read_certificate(options.folder)
        if options.loosen:
            certificate = loosen(certificate, options.loosen)
        prove(certificate)
    except MalformedError as error:
        print(f"not a certificate: {error}", file=sys.stderr)
        return 2
    except NotProvedError as error:
        print(f"NOT PROVED: {error}", file=sys.stderr)
        return 1
    print(f"proved: Lipschitz constant <= {decimal_up(certificate.lipschitz)} (L2)")
    activations = ", ".join(dict.fromkeys(certificate.activations)) or "no activation"
    print(f"network: {'-'.join(map(str, certificate.widths))}, {activations}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
