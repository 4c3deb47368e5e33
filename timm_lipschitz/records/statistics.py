"""Wilson intervals, and percentages that are never nicer than what was measured."""

import math
import operator
from fractions import Fraction

from timm_lipschitz.errors import InvalidInputError

Z95 = 1.959963984540054
"""The 97.5% quantile of the normal distribution, a constant so that a stored interval can be compared exactly."""


def wilson_interval(successes: int, total: int) -> tuple[float, float]:
    """Wilson score interval of a proportion at 95%, as fractions in [0, 1].

    Only additions, products, divisions and one square root of float64 are used, all of them correctly rounded, so that
    the same counts give the same bits on every machine.

    Raises:
        InvalidInputError: no trials, or a number of successes outside 0..total.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
    """
    successes, total = operator.index(successes), operator.index(total)
    if total < 1:
        raise InvalidInputError(f"a proportion needs at least one trial, got total={total}")
    if not 0 <= successes <= total:
        raise InvalidInputError(f"successes must lie in 0..{total}, got {successes}")
    z2 = Z95 * Z95
    centre = successes + z2 / 2
    half = Z95 * math.sqrt(successes * (total - successes) / total + z2 / 4)
    # In exact arithmetic the ends are 0 and 1 where nothing or everything succeeded; rounding would miss them.
    low = 0.0 if successes == 0 else max(0.0, (centre - half) / (total + z2))
    high = 1.0 if successes == total else min(1.0, (centre + half) / (total + z2))
    return low, high


def thousandths_down(value: float) -> str:
    """A number that is not negative, such as a certified radius, with three decimals, rounded down exactly."""
    thousandths = math.floor(Fraction(value) * 1000)
    return f"{thousandths // 1000}.{thousandths % 1000:03d}"


def thousandths_up(value: float) -> str:
    """As `thousandths_down`, rounded up: for upper bounds, such as the distance of an adversarial example."""
    thousandths = math.ceil(Fraction(value) * 1000)
    return f"{thousandths // 1000}.{thousandths % 1000:03d}"


def percent_down(fraction: Fraction | float) -> str:
    """A fraction of [0, 1] as a percentage with one decimal, rounded down: 0.83999 -> ``"83.9"``.

    Every accuracy and every lower end of an interval is shown so. A float counts with its exact binary value; pass
    ``Fraction(count, total)`` for a ratio of counts.
    """
    tenths = math.floor(Fraction(fraction) * 1000)
    return f"{tenths // 10}.{tenths % 10}"


def percent_up(fraction: Fraction | float) -> str:
    """As `percent_down`, rounded up: for the upper end of an interval, and for times and the like."""
    tenths = math.ceil(Fraction(fraction) * 1000)
    return f"{tenths // 10}.{tenths % 10}"
