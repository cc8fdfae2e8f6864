"""Why no plan exists, in one line with the units that people type."""

from typing import TYPE_CHECKING

from hwsim.units import Dimension, format_quantity, parse_quantity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.report import Conflict, InfeasibleReport

_DIMENSIONS: dict[str, tuple[Dimension, float]] = {
    "latency": ("time", 1.0),
    "energy": ("energy", 1e-12),
    "bops": ("count", 1.0),
    "weight_memory": ("bytes", 1.0),
    "activation_memory": ("bytes", 1.0),
}
_UP = 1 + 5e-4  # four digits never round below what is needed


def infeasible_text(report: "InfeasibleReport") -> str:
    """The planner's headline with its figures as quantities; what is needed is rounded up."""
    if not report.relaxations:
        return _not_by_one_change(report)
    asked = {
        one.name: quantity_text(one.name, one.limit) for one in report.relaxations if one.needed is not None
    }
    ways = [
        one.text.removesuffix(" a plan exists")
        if one.needed is None
        else f"with {quantity_word(one.name)} {_enough(one.name, one.needed)} instead of {asked[one.name]}"
        + ("" if one.proven else " (at most)")
        for one in report.relaxations
    ]
    return f"infeasible: {_demands(report.conflict) or 'the tables alone'}. Feasible {', or '.join(ways)}"


def _not_by_one_change(report: "InfeasibleReport") -> str:
    """All that contradicts, and what each of these limits needs at least."""
    if not report.needed:
        return report.headline
    also = f"; and also: {_demands(report.further)}" if report.further else ""
    needed = ", ".join(
        f"{quantity_word(one.name)} {_enough(one.name, one.needed or 0.0)}" for one in report.needed
    )
    return f"infeasible: {_demands(report.conflict)}{also}. No single change is enough; at least are needed: {needed}"


def _enough(name: str, needed: float) -> str:
    """The amount in four digits; where those are less than what is needed, rounded up."""
    text = quantity_text(name, needed)
    if needed <= 0:
        return text
    dimension, scale = _DIMENSIONS.get(name, ("bytes", 1.0))
    told = float(text.split()[0]) if name == "error" else parse_quantity(text, dimension, name) / scale
    return text if told >= needed else quantity_text(name, needed * _UP)


def _demands(conflict: "Sequence[Conflict]") -> str:
    return "; ".join(
        one.text
        if one.limit is None
        else f"{quantity_word(one.name)} at most {quantity_text(one.name, one.limit)}"
        for one in conflict
    )


def quantity_word(name: str) -> str:
    """What people call a quantity or a memory that is limited."""
    word = name.removeprefix("memory:").replace("_", " ")
    return "predicted error" if word == "error" else word


def quantity_text(name: str, value: float, digits: int = 4) -> str:
    """A value of a planner's quantity with its unit."""
    if name == "error":
        return f"{value:.{digits}g} nats"
    dimension, scale = _DIMENSIONS.get(name, ("bytes", 1.0))  # memories of the device count bytes
    return format_quantity(value * scale, dimension, digits)
