"""Exact integers for errors and energies that span many decades.

Every number of the tables means its shortest decimal form (0.1 is one tenth). One power of ten per quantity
makes all of them integers; Python's integers have no size limit, so sums and comparisons are exact.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction


def decimal_parts(value: float) -> tuple[int, int]:
    """``value`` as mantissa and power of ten: ``1.5e-12`` is ``(15, -13)``."""
    mantissa, _, exponent = repr(float(value)).partition("e")
    whole, _, digits = mantissa.partition(".")
    if digits == "0":
        digits = ""
    return int(whole + digits), int(exponent or 0) - len(digits)


def as_fraction(value: float) -> Fraction:
    """The rational number that the shortest decimal form of ``value`` names."""
    mantissa, exponent = decimal_parts(value)
    return mantissa * Fraction(10) ** exponent


@dataclass(frozen=True, slots=True)
class DecimalScale:
    """Integers in units of ``10**-places``."""

    places: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "DecimalScale":
        """The coarsest scale on which all ``values`` are integers."""
        return cls(max((-decimal_parts(value)[1] for value in set(values) if value), default=0))

    def integer(self, value: float) -> int:
        """``value`` on this scale; only for values the scale was made for."""
        mantissa, exponent = decimal_parts(value)
        return mantissa * 10 ** (exponent + self.places) if mantissa else 0

    def floor(self, value: Fraction) -> int:
        """The largest integer on this scale that is not above ``value``."""
        scaled = value * Fraction(10) ** self.places
        return scaled.numerator // scaled.denominator

    def fraction(self, integer: int) -> Fraction:
        """What ``integer`` on this scale stands for."""
        return Fraction(integer * 10 ** max(0, -self.places), 10 ** max(0, self.places))

    def number(self, integer: int) -> float:
        """The float nearest to ``fraction``: Python divides integers of any size correctly rounded."""
        return integer * 10 ** max(0, -self.places) / 10 ** max(0, self.places)
