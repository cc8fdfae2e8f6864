"""How figures look in every rendering: one function per kind of figure."""

from hwsim.report.document import Budget, ComparisonRow, Report
from hwsim.units import format_quantity

MISSING = "—"


def quantity(value: float | None, dimension: str) -> str:
    """A figure with its unit, or a dash when it was not obtained."""
    if value is None:
        return MISSING
    if dimension == "error":
        return error(value)
    return format_quantity(value, dimension)  # pyright: ignore[reportArgumentType]


def error(value: float | None) -> str:
    """A predicted error with three digits, in scientific notation when it is small."""
    if value is None:
        return MISSING
    return "0" if value == 0 else f"{value:.3g}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage."""
    return MISSING if value is None else f"{100 * value:.{digits}f} %"


def cycles(value: float | None) -> str:
    """A cycle count with thousands separated."""
    return MISSING if value is None else f"{value:,.0f}".replace(",", " ")


def budget_line(budget: Budget) -> str:
    """``latency 3.2 ms of 4 ms: met, 20 % to spare``."""
    value, limit = quantity(budget.value, budget.unit), quantity(budget.limit, budget.unit)
    if budget.met:
        return f"{budget.name} {value} of {limit}: met, {percent(budget.margin)} to spare ({budget.asked_by})"
    return f"{budget.name} {value} of {limit}: broken by {percent(-budget.margin)} ({budget.asked_by})"


def comparison_cells(row: ComparisonRow) -> list[str]:
    """One row of the comparison table as text."""
    return [
        row.name,
        row.scheme,
        quantity(row.weight_bytes, "bytes"),
        quantity(row.bops, "count"),
        cycles(row.cycles),
        quantity(row.seconds, "time"),
        quantity(row.energy_joules, "energy"),
        error(row.error),
        row.note,
    ]


COMPARISON_HEADER = (
    "form", "scheme", "weights", "BOPs", "cycles", "latency", "energy", "predicted error", "note"
)  # fmt: skip


def validation_line(report: Report) -> str:
    """Promised and simulated latency in one sentence."""
    check = report.validation
    verdict = "inside" if check.held else "OUTSIDE"
    return (
        f"predicted {cycles(check.predicted_cycles)} cycles, simulated {cycles(check.simulated_cycles)} cycles: "
        f"{100 * check.difference:+.1f} %, {verdict} the bound of ±{percent(check.bound, 0)}"
    )
