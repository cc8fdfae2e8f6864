"""Limits of a request and of the device, as exact integers on the scales of the tables."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction

from planner.entries import ExactTables
from planner.exact import as_fraction
from planner.request import QUANTITIES, Limits


@dataclass(frozen=True, slots=True)
class Limit:
    """``quantity ≤ value``; ``shown`` is the limit in the unit of the request."""

    name: str
    value: int
    shown: float

    @property
    def quantity(self) -> str:
        """The quantity that the limit bounds: its own name."""
        return self.name


def to_integer(exact: ExactTables, quantity: str, value: Fraction) -> int:
    """The largest integer of the quantity's scale that is not above ``value`` in the request's unit."""
    if quantity == "error":
        return exact.error_scale.floor(value)
    if quantity == "energy":
        return exact.energy_scale.floor(value)
    if quantity == "latency":
        value *= as_fraction(exact.tables.clock_hz)
    return value.numerator // value.denominator


def to_fraction(exact: ExactTables, quantity: str, value: int) -> Fraction:
    """An integer of the quantity's scale in the request's unit."""
    if quantity == "error":
        return exact.error_scale.fraction(value)
    if quantity == "energy":
        return exact.energy_scale.fraction(value)
    return value / as_fraction(exact.tables.clock_hz) if quantity == "latency" else Fraction(value)


def to_float(exact: ExactTables, quantity: str, value: int) -> float:
    """The float nearest to ``to_fraction``."""
    if quantity == "error":
        return exact.error_scale.number(value)
    if quantity == "energy":
        return exact.energy_scale.number(value)
    return float(to_fraction(exact, quantity, value)) if quantity == "latency" else float(value)


def limit_for(exact: ExactTables, quantity: str, value: int) -> float:
    """The smallest float in the request's unit that, as a limit, admits ``value``."""
    found = to_float(exact, quantity, value)
    while to_integer(exact, quantity, as_fraction(found)) < value:
        found = math.nextafter(found, math.inf)
    return found


def limit_below(exact: ExactTables, quantity: str, value: int) -> float:
    """The largest float in the request's unit that, as a limit, admits nothing above ``value``."""
    found = to_float(exact, quantity, value)
    while to_integer(exact, quantity, as_fraction(found)) > value:
        found = math.nextafter(found, -math.inf)
    return found


def all_limits(exact: ExactTables, limits: Limits) -> list[Limit]:
    """The limits of the request, then the memories of the device."""
    found: list[Limit] = []
    for name in QUANTITIES:
        value: float | None = getattr(limits, name)
        if value is not None:
            found.append(Limit(name, to_integer(exact, name, as_fraction(value)), value))
    for memory in exact.tables.memories:
        found.append(Limit(f"memory:{memory.name}", memory.bytes, float(memory.bytes)))
    return found


def tightened(limits: list[Limit], new: Limit) -> list[Limit]:
    """``limits`` with ``new`` added; of two limits on one quantity the smaller counts."""
    same = [limit for limit in limits if limit.name == new.name]
    if not same:
        return [*limits, new]
    return [
        replace(limit, value=min(limit.value, new.value)) if limit.name == new.name else limit
        for limit in limits
    ]
