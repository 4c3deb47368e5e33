"""Threat models: a norm and a radius in pixel units, the radius kept as an exact fraction.

``l2:36/255`` means every perturbation of Euclidean norm at most 36/255 of an image with pixels in [0, 1]. The radius is
a :class:`~fractions.Fraction`, so 36/255 and 12/85 are one threat model and 0.1411764705882353 is another.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast, get_args

from timm_lipschitz.errors import InvalidInputError

if TYPE_CHECKING:
    from torch import Tensor

Norm: TypeAlias = Literal["l1", "l2", "linf"]
NORMS: Final[tuple[Norm, ...]] = get_args(Norm)

# Numerator and denominator stay below this: no text or number makes the package build integers of a million digits.
_LARGEST_INTEGER: Final = 10**100
_LONGEST_TEXT: Final = 500
_DECIMAL: Final = re.compile(r"\+?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]{1,3})?", re.IGNORECASE)
_RATIO: Final = re.compile(r"\+?[0-9]+\s*/\s*[0-9]+")
_NOT_FINITE: Final = re.compile(r"[+-]?(nan|inf|infinity|∞)", re.IGNORECASE)
_WAY_OUT: Final = "write a decimal such as 1.58 or a fraction such as 36/255"

# Norm of every row of a (N, D) tensor, in its dtype.
ROW_NORMS: Final[dict[Norm, Callable[[Tensor], Tensor]]] = {
    "l1": lambda rows: rows.abs().sum(dim=1),
    "l2": lambda rows: rows.square().sum(dim=1).sqrt(),
    "linf": lambda rows: rows.abs().amax(dim=1),
}


def parse_eps(text: str) -> Fraction:
    """Read a perturbation radius: ``"36/255"``, ``"1.58"``, ``"1"`` or ``"1e-2"``, exactly as written.

    Raises:
        InvalidInputError: the text is negative, NaN, infinite, out of range or not a number.
    """
    stripped = text.strip()
    if _NOT_FINITE.fullmatch(stripped):
        raise InvalidInputError(f"eps is {stripped!r}, but a radius is finite: {_WAY_OUT}.")
    if stripped.startswith("-"):
        raise InvalidInputError(f"eps is {stripped!r}, but a radius is not negative: {_WAY_OUT} (0: clean accuracy).")
    if len(stripped) > _LONGEST_TEXT:
        raise InvalidInputError(f"eps has {len(stripped)} characters, more than {_LONGEST_TEXT}: {_WAY_OUT}.")
    if not (_DECIMAL.fullmatch(stripped) or _RATIO.fullmatch(stripped)):
        raise InvalidInputError(f"eps {text!r} is not a number: {_WAY_OUT}.")
    try:
        return _checked(Fraction(re.sub(r"\s", "", stripped)))
    except ZeroDivisionError:
        raise InvalidInputError(f"eps {text!r} divides by zero: {_WAY_OUT}.") from None


def format_eps(eps: Fraction) -> str:
    """Canonical text of a radius, the inverse of :func:`parse_eps`.

    A terminating decimal is written as one, with at least one digit after the point (``1.0``, ``1.58``); another
    fraction whose denominator divides 255 in 255ths (``36/255``); any other in lowest terms (``1/7``).
    """
    digits = _decimal_digits(eps.denominator)
    if digits is not None:
        whole, part = divmod(eps.numerator * 10**digits // eps.denominator, 10**digits)
        return f"{whole}.{part:0{digits}d}"
    if 255 % eps.denominator == 0:
        return f"{eps * 255}/255"
    return f"{eps.numerator}/{eps.denominator}"


@dataclass(frozen=True, order=True)
class ThreatModel:
    """Perturbations of an image, in pixel units, of a norm at most ``eps``. Hashable; ordered by norm, then eps.

    ``eps`` may be given as an integer. ``eps = 0`` allows the unchanged image only, so it stands for clean accuracy.

    Raises:
        InvalidInputError: an unknown norm, or an eps that is negative, out of range or not an exact number.
    """

    norm: Norm
    eps: Fraction

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise InvalidInputError(f"ThreatModel.norm is {self.norm!r}: use one of {', '.join(NORMS)}.")
        if isinstance(self.eps, bool) or not isinstance(self.eps, (int, Fraction)):
            raise InvalidInputError(
                f"ThreatModel.eps is {self.eps!r}, a {type(self.eps).__name__}: give a fractions.Fraction, or use "
                f"ThreatModel.parse('{self.norm}:36/255')."
            )
        object.__setattr__(self, "eps", _checked(Fraction(self.eps)))

    @classmethod
    def parse(cls, text: str) -> ThreatModel:
        """Read ``"NORM:EPS"``: ``"l2:36/255"``, ``"linf:8/255"``, ``"l2:1.58"``. Case and outer blanks do not matter.

        Raises:
            InvalidInputError: no colon, an unknown norm, or an eps that :func:`parse_eps` refuses.
        """
        norm, colon, eps = text.strip().partition(":")
        norm = norm.strip().lower()
        if not colon or norm not in NORMS:
            raise InvalidInputError(
                f"threat model {text!r} is not NORM:EPS with NORM one of {', '.join(NORMS)}: write it like l2:36/255."
            )
        return cls(cast(Norm, norm), parse_eps(eps))

    def __str__(self) -> str:
        """Canonical text: ``parse(str(t)) == t``, and equal threat models have the same text."""
        return f"{self.norm}:{format_eps(self.eps)}"

    @property
    def radius(self) -> float:
        """``eps`` rounded to the nearest float64."""
        return float(self.eps)

    def distance(self, delta: Tensor) -> Tensor:
        """Norm of each image's perturbation, computed in float64: (N, ...) -> (N,) float64.

        Subtract in float64 too (``adversarial.double() - image.double()``): a float32 difference is already rounded.
        """
        return ROW_NORMS[self.norm](delta.detach().double().flatten(1))  # (N, ...) -> (N, D) -> (N,)


def _checked(eps: Fraction) -> Fraction:
    """``eps`` if it is a usable radius: not negative, not so long or large that float64 cannot hold it."""
    if eps < 0:
        raise InvalidInputError(f"eps is {eps}, but a radius is not negative: {_WAY_OUT} (0 means clean accuracy).")
    if max(eps.numerator, eps.denominator) > _LARGEST_INTEGER:
        raise InvalidInputError(f"eps has a numerator or denominator above 1e100: {_WAY_OUT}.")
    return eps


def _decimal_digits(denominator: int) -> int | None:
    """Digits after the decimal point of a fraction in lowest terms, at least 1; None if it does not terminate."""
    powers = dict.fromkeys((2, 5), 0)
    for prime in powers:
        while denominator % prime == 0:
            denominator //= prime
            powers[prime] += 1
    return max(1, *powers.values()) if denominator == 1 else None
