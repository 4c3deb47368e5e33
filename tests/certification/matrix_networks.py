"""Networks as plain matrices with the multipliers of their construction, by the paper's formulas and numpy alone."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np

from timm_lipschitz.certification.check_certificate import Certificate

Matrix = list[list[Fraction]]


def cayley_pair(generator: np.random.Generator, q: int, p: int) -> tuple[np.ndarray, np.ndarray]:
    """A (q, q) and B (q, p) with A A^T + B B^T = I, by equation 9 of the paper."""
    x, y = generator.standard_normal((q, q)), generator.standard_normal((p, q))
    inverse = np.linalg.inv(np.eye(q) + x - x.T + y.T @ y)
    a = (2 * inverse - np.eye(q)).T
    b = (-2 * y @ inverse).T
    assert np.abs(a @ a.T + b @ b.T - np.eye(q)).max() < 1e-10
    return a, b


def sandwich_certificate(
    widths: list[int], gamma: float = 1.0, spread: float = 0.0, seed: int = 0, activation: str = "tanh"
) -> Certificate:
    """A random network of theorem 3.1, log-scales uniform in [-spread, spread], whose H is singular.

    It is so because the last matrix, an isometry, loses nothing of some direction, and the layers before it lose
    nothing of what they send there.
    """
    generator = np.random.default_rng(seed)
    weights, multipliers = [], []
    root, before = np.sqrt(2 * gamma), np.eye(widths[0])
    for p, q in pairwise(widths[:-1]):
        a, b = cayley_pair(generator, q, p)
        psi = np.exp(generator.uniform(-spread, spread, q))
        weights.append((root * b @ before) / psi[:, None])
        multipliers.append(psi**2)
        root, before = 2.0, a.T * psi
    tall = generator.standard_normal((max(widths[-2:]), min(widths[-2:])))
    b = np.linalg.qr(tall)[0].reshape(tall.shape)
    b = b if widths[-1] >= widths[-2] else b.T
    weights.append((np.sqrt(2 * gamma) if multipliers else gamma) * b @ before)
    biases = tuple(generator.standard_normal(q) for q in widths[1:])
    return Certificate(gamma, tuple(weights), biases, tuple(multipliers), (activation,) * len(multipliers))


def identity_certificate(depth: int, width: int = 2, gamma: float = 1.0) -> Certificate:
    """ReLU layers that hand a positive input on unchanged: its Lipschitz constant is ``gamma``, exactly."""
    eye = np.eye(width)
    weights = (*(eye for _ in range(depth)), gamma * eye)
    # Lambda_k = gamma: the layers' inequalities, each weighted by gamma
    return Certificate(
        gamma, weights, (np.zeros(width),) * (depth + 1), (np.full(width, gamma),) * depth, ("relu",) * depth
    )


def dense_inequality(certificate: Certificate) -> Matrix:
    """H in rational arithmetic, entry by entry."""
    widths = certificate.widths
    starts = [sum(widths[:k]) for k in range(len(widths))]
    size = sum(widths)
    h = [[Fraction(0)] * size for _ in range(size)]
    gamma = Fraction(certificate.lipschitz)
    for i in (*range(widths[0]), *range(starts[-1], size)):
        h[i][i] = gamma
    for k, weight in enumerate(certificate.weights):
        row, column = starts[k + 1], starts[k]
        for i in range(weight.shape[0]):
            scale = Fraction(1)
            if k < len(certificate.multipliers):
                scale = Fraction(float(certificate.multipliers[k][i]))
                h[row + i][row + i] = 2 * scale
            for j in range(weight.shape[1]):
                h[row + i][column + j] = h[column + j][row + i] = -scale * Fraction(float(weight[i, j]))
    return h


def is_definite(matrix: Matrix) -> bool:
    """Whether a symmetric rational matrix is positive definite: every pivot of Gaussian elimination is positive."""
    work = [list(row) for row in matrix]
    for i in range(len(work)):
        if work[i][i] <= 0:
            return False
        for j in range(i + 1, len(work)):
            factor = work[j][i] / work[i][i]
            if factor:
                work[j] = [x - factor * y for x, y in zip(work[j], work[i], strict=True)]
    return True
