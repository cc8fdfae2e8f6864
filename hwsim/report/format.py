"""How figures look in every rendering: one function per kind of figure."""

from hwsim.report.document import Budget, Report
from hwsim.units import Dimension, format_quantity

MISSING = "—"


def quantity(value: float | None, dimension: Dimension) -> str:
    """A figure with its unit, or a dash when it was not obtained."""
    return MISSING if value is None else format_quantity(value, dimension)


def error(value: float | None) -> str:
    """A predicted error with three digits, in scientific notation when it is small."""
    if value is None:
        return MISSING
    return "0" if value == 0 else f"{value:.3g}"


_TOTALS: dict[str, tuple[str, float, Dimension | None]] = {
    "error": ("predicted error (nats)", 1.0, None),
    "cycles": ("cycles", 1.0, None),
    "latency": ("latency", 1.0, "time"),
    "energy_pj": ("energy", 1e-12, "energy"),
    "bops": ("BOPs", 1.0, "count"),
    "weight_bytes": ("weights", 1.0, "bytes"),
    "activation_bytes": ("live activations", 1.0, "bytes"),
}


def total(name: str, value: float) -> tuple[str, str]:
    """What one of the planner's totals is called, and its figure with its unit."""
    title, scale, dimension = _TOTALS.get(name, (name, 1.0, None))
    if dimension is None:
        return title, cycles(value) if name == "cycles" else error(value)
    return title, format_quantity(value * scale, dimension) if value else "0"


def plain(value: float | None) -> str:
    """A number in the unit of its column: three digits, thousands set apart."""
    if value is None:
        return MISSING
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return f"{value:.3g}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage."""
    return MISSING if value is None else f"{100 * value:.{digits}f} %"


def signed(share: float) -> str:
    """A difference in percent with its sign; no ``-0.0``."""
    return f"{round(100 * share, 1) + 0.0:+.1f}"


def cycles(value: float | None) -> str:
    """A cycle count with thousands separated."""
    return MISSING if value is None else f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def budget_line(budget: Budget) -> str:
    """``latency 3.2 ms of 4 ms: met, 20 % to spare``."""
    if budget.unit == "error":
        value, limit = f"{error(budget.value)} nats", f"{error(budget.limit)} nats"
    else:
        value, limit = quantity(budget.value, budget.unit), quantity(budget.limit, budget.unit)
    if budget.met:
        return f"{budget.name} {value} of {limit}: met, {percent(budget.margin)} to spare ({budget.asked_by})"
    return f"{budget.name} {value} of {limit}: broken by {percent(-budget.margin)} ({budget.asked_by})"


def validation_line(report: Report) -> str:
    """Promised, simulated and measured latency in one sentence."""
    check = report.validation
    verdict = "inside" if check.held else "OUTSIDE"
    text = (
        f"predicted {cycles(check.predicted_cycles)} cycles, simulated {cycles(check.simulated_cycles)} cycles: "
        f"{signed(check.difference)} %, {verdict} the bound of ±{percent(check.bound, 0)}"
    )
    found = report.measurement
    if found is None:
        return f"{text}; not measured: {report.missing('measured latency')}"
    gap = found.simulated_seconds / found.measured_seconds - 1
    rounds = f"{quantity(found.low, 'time')} to {quantity(found.high, 'time')}"
    return (
        f"{text}; measured {quantity(found.measured_seconds, 'time')} ({rounds}) on {found.device}, "
        f"where {found.descriptor} simulates {quantity(found.simulated_seconds, 'time')}: {signed(gap)} %"
    )


def engines_line(report: Report) -> str:
    """Share of the multiply-accumulates on each engine: what fell back is seen at once."""
    total = sum(row.macs for row in report.layers)
    shares: dict[str, int] = {}
    for row in report.layers:
        if row.is_product:
            in_float = row.scheme.partition("+")[0] == "fp" and row.engine != "float"
            name = f"{row.engine} in float" if in_float else row.engine
            shares[name] = shares.get(name, 0) + row.macs
    words = [f"{name} {percent(macs / total)}" for name, macs in sorted(shares.items(), key=lambda e: -e[1])]
    return "Multiply-accumulates by engine: " + (", ".join(words) or "none") + "."
