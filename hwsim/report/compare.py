"""Reports side by side: which device, or which plan, answers the question best?"""

from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from hwsim.report import figures, tables
from hwsim.report import format as fmt
from hwsim.report.document import Report
from hwsim.report.svg import Plot, Scale


class Entry(BaseModel):
    """One report in short."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    model: str
    target: str
    target_description: str
    seconds: float
    energy_joules: float | None
    weight_bytes: float | None
    error: float | None
    times_uniform_w8a8: float | None
    budgets_met: bool
    not_honoured: int
    bound_held: bool
    solver: str


class SideBySide(BaseModel):
    """Several reports; ``best`` names the leader in each quantity, ``notes`` what to keep in mind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    entries: list[Entry]
    best: dict[str, str]
    notes: list[str]


def side_by_side(named: Sequence[tuple[str, Report]]) -> SideBySide:
    """Compare reports; the names tell them apart."""
    entries = [_entry(name, report) for name, report in named]
    return SideBySide(entries=entries, best=_best(entries), notes=_notes([report for _, report in named]))


def _entry(name: str, report: Report) -> Entry:
    own = next((row for row in report.comparison if row.chosen), None)
    reference = next((row for row in report.comparison if row.name == "uniform w8a8"), None)
    seconds = report.validation.simulated_cycles / report.clock_hz
    gain = reference.seconds / seconds if reference is not None and reference.seconds and seconds else None
    return Entry(
        name=name,
        model=report.model,
        target=report.target,
        target_description=report.target_description,
        seconds=seconds,
        energy_joules=sum(report.energy_by_component.values()) if report.energy_by_component else None,
        weight_bytes=None if own is None else own.weight_bytes,
        error=None if own is None else own.error,
        times_uniform_w8a8=gain,
        budgets_met=all(budget.met for budget in report.budgets),
        not_honoured=len(report.not_honoured),
        bound_held=report.validation.held,
        solver=report.solver,
    )


_QUANTITIES: dict[str, Callable[[Entry], float | None]] = {
    "latency": lambda entry: entry.seconds,
    "energy": lambda entry: entry.energy_joules,
    "weights": lambda entry: entry.weight_bytes,
    "predicted error": lambda entry: entry.error,
}


def _best(entries: list[Entry]) -> dict[str, str]:
    best: dict[str, str] = {}
    for quantity, read in _QUANTITIES.items():
        known = [(value, entry.name) for entry in entries if (value := read(entry)) is not None]
        if known:
            least = min(value for value, _ in known)
            best[quantity] = ", ".join(name for value, name in known if value == least)
    return best


def _notes(reports: list[Report]) -> list[str]:
    notes: list[str] = []
    if len({report.provenance.graph_sha256 for report in reports}) > 1:
        notes.append("the networks differ: errors and latencies of different networks are not comparable")
    elif len({report.provenance.weights for report in reports}) > 1:
        notes.append("the weights differ: predicted errors are not comparable")
    if len({report.provenance.sensitivity for report in reports}) > 1:
        notes.append("the errors rest on different data: they are not comparable")
    if any(report.illustrative for report in reports):
        notes.append("illustrative: some weights are random, their errors say nothing of a trained model")
    asked = {tuple((b.name, b.limit) for b in r.budgets if b.asked_by.startswith("--")) for r in reports}
    if len(asked) > 1:
        notes.append("the plans were made under different limits")
    return notes


def table(found: SideBySide) -> tables.Table:
    """One row for each report; the leader of a column is marked."""
    columns = tables.named_columns(
        "plan | model | target | latency | energy | weights | predicted error (nats) | × uniform w8a8 | "
        "budgets | simulation | not honoured",
        "3-7",
    )
    return tables.Table("plans", "Plans side by side", columns, [_cells(e, found) for e in found.entries])


def _cells(entry: Entry, found: SideBySide) -> list[str]:
    figures_ = {
        "latency": fmt.quantity(entry.seconds, "time"),
        "energy": fmt.quantity(entry.energy_joules, "energy"),
        "weights": fmt.quantity(entry.weight_bytes, "bytes"),
        "predicted error": fmt.error(entry.error),
    }
    marked = [
        f"{text} (best)" if _leads(entry, quantity, found) else text for quantity, text in figures_.items()
    ]
    gain = fmt.MISSING if entry.times_uniform_w8a8 is None else f"{entry.times_uniform_w8a8:.2f}"
    return [
        entry.name, entry.model, entry.target, *marked, gain, "met" if entry.budgets_met else "broken",
        "inside bound" if entry.bound_held else "outside bound", str(entry.not_honoured),
    ]  # fmt: skip


def _leads(entry: Entry, quantity: str, found: SideBySide) -> bool:
    value = _QUANTITIES[quantity](entry)
    known = [v for other in found.entries if (v := _QUANTITIES[quantity](other)) is not None]
    return value is not None and len(set(known)) > 1 and value == min(known)


def verdict(found: SideBySide) -> list[str]:
    """Who leads in what, and who is beaten in both latency and error."""
    lines = [f"least {quantity}: {name}" for quantity, name in found.best.items()]
    for entry in found.entries:
        better = [
            other.name
            for other in found.entries
            if other.model == entry.model
            and entry.error is not None
            and other.error is not None
            and other.seconds <= entry.seconds
            and other.error <= entry.error
            and (other.seconds, other.error) != (entry.seconds, entry.error)
        ]
        if better:
            lines.append(f"{entry.name} is neither faster nor more accurate than {', '.join(better)}")
    return lines


def chart(found: SideBySide) -> str:
    """Latency against predicted error, one mark for each plan."""
    known = [entry for entry in found.entries if entry.error is not None]
    errors = [entry.error for entry in known if entry.error]
    if not errors:
        return ""
    scale, unit = figures.axis_unit(max(entry.seconds for entry in known), "time")
    plot = Plot(
        figures.WIDTH, 330, Scale.over([e.seconds / scale for e in known], 76, figures.WIDTH - 20, log=True),
        Scale.over(errors, 282, 14, log=True), f"latency of one inference ({unit})", "predicted error (nats)",
    )  # fmt: skip
    for entry in known:
        place = (plot.x(entry.seconds / scale), plot.y(entry.error) if entry.error else plot.y.first)
        plot.marks(
            [place], "diamond" if entry.error else "triangle", "fill-a" if entry.budgets_met else "fill-b"
        )
        plot.label(*place, entry.name if entry.error else f"{entry.name} (no error)")
    text = f"{len(known)} plans; orange ones break a budget."
    return plot.render("figure-plans", "Latency against predicted error", text)
