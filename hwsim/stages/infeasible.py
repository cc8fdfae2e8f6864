"""Why no plan exists, in one line with the units that people type."""

from typing import TYPE_CHECKING

from hwsim.units import Dimension, format_quantity

if TYPE_CHECKING:
    from planner.report import InfeasibleReport

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
        return report.headline
    asked = {one.name: _figure(one.name, one.limit) for one in report.relaxations if one.needed is not None}
    conflict = "; ".join(
        f"{_word(one.name)} at most {asked[one.name]}" if one.name in asked else one.text
        for one in report.conflict
    )
    ways = [
        one.text
        if one.needed is None
        else f"{_word(one.name)} {_figure(one.name, one.needed * _UP)} instead of {asked[one.name]}"
        + ("" if one.proven else " (at most)")
        for one in report.relaxations
    ]
    return f"infeasible: {conflict or 'the tables alone'}. Feasible with {', or '.join(ways)}"


def _word(name: str) -> str:
    word = name.removeprefix("memory:").replace("_", " ")
    return "predicted error" if word == "error" else word


def _figure(name: str, value: float) -> str:
    if name == "error":
        return f"{value:.4g}"
    dimension, scale = _DIMENSIONS.get(name, ("bytes", 1.0))  # memories of the device count bytes
    return format_quantity(value * scale, dimension, 4)
