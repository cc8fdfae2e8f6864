"""Results as cells of a notebook: the report's verdict and comparison, small tables for the rest.

Fragments carry no style of their own, so that they follow the notebook's theme.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from hwsim.report import compare, tables
from hwsim.report import format as fmt
from hwsim.report.document import Report
from hwsim.units import format_quantity

if TYPE_CHECKING:
    from hwsim.measure.bench import Bench
    from hwsim.simulate.simulation import Simulation
    from hwsim.stages.evaluate import Evaluation
    from hwsim.stages.report import ReportResult
    from hwsim.stages.run import RunResult
    from planner.diff import PlanDiff
    from planner.plan import Plan

METRICS = {
    "top1": ("top-1 %", ".2f"),
    "top5": ("top-5 %", ".2f"),
    "nll": ("loss, nats", ".4f"),
    "perplexity": ("perplexity", ".3f"),
    "kl": ("KL(float ‖ quantized), nats", ".5f"),
    "cosine": ("cosine with float", ".5f"),
    "agreement": ("same class as float %", ".2f"),
    "relative_squared_error": ("squared error / float²", ".3g"),
}
"""What the figures of an evaluation are called, and their format."""


def report(found: Report) -> str:
    """The verdict and the comparison table."""
    facts = [fmt.budget_line(budget) for budget in found.budgets]
    facts += [found.solver, fmt.validation_line(found)]
    facts += [f"not honoured: {text}" for text in found.not_honoured]
    facts += [f"note: {text}" for text in found.warnings]
    return headed(found.headline, facts) + table(tables.comparison(found))


def reports(found: "ReportResult") -> str:
    """One report, or several side by side."""
    if found.comparison is None:
        return "".join(map(report, found.reports.values()))
    lines = [*compare.verdict(found.comparison), *found.comparison.notes]
    return table(compare.table(found.comparison)) + items(lines)


def simulation(found: "Simulation") -> str:
    """The figures of one inference and the layers that take the longest."""
    facts = [
        f"latency {format_quantity(found.seconds, 'time')}",
        f"energy {format_quantity(found.total_energy_pj * 1e-12, 'energy')}",
        f"peak memory {format_quantity(found.peak_memory_bytes, 'bytes')}",
        "modelled, not measured on this device",
    ]
    slowest = sorted(found.layers, key=lambda layer: -layer.cycles)[:10]
    rows = [
        [layer.name, layer.scheme, layer.engine, layer.bound, f"{100 * layer.cycles / found.cycles:.1f}"]
        for layer in slowest
    ]
    return headed(f"One inference on {found.device}", facts) + grid(
        ["slowest layers", "scheme", "engine", "bound", "time (%)"], rows
    )


def evaluation(found: "Evaluation") -> str:
    """The measured figures beside those of the float model."""
    rows = [
        [METRICS[name][0], format(value, METRICS[name][1]), _reference(found, name)]
        for name, value in found.metrics.items()
    ]
    title = f"{found.model} on {found.data.count} samples of {found.data.source}"
    return headed(title, found.remarks) + grid(["", "measured", "float"], rows)


def _reference(found: "Evaluation", name: str) -> str:
    known = found.reference or {}
    return format(known[name], METRICS[name][1]) if name in known else fmt.MISSING


def run(found: "RunResult") -> str:
    """The largest outputs."""
    facts = ["random weights: the values are illustrative"] if found.illustrative else []
    if found.median_seconds is not None:
        facts.append(f"median {format_quantity(found.median_seconds, 'time')}")
    rows = [[str(index), f"{value:.6g}"] for index, value in found.top]
    return headed(found.model, facts) + grid(["index", "value"], rows)


def bench(found: "Bench") -> str:
    """Predicted beside measured: the whole inference and the layers that take the longest."""
    whole = [
        f"predicted {format_quantity(found.predicted, 'time')}, measured "
        f"{format_quantity(found.measured.median, 'time')}: {fmt.signed(found.error)} %",
        f"median difference of a layer {fmt.percent(found.median_layer_error)}",
    ]
    slowest = sorted(found.layers, key=lambda layer: -layer.measured.median)[:10]
    rows = [
        [
            layer.name,
            format_quantity(layer.predicted, "time"),
            format_quantity(layer.measured.median, "time"),
            fmt.signed(layer.error),
        ]
        for layer in slowest
    ]
    title = f"{found.model} on {found.device}, predicted with {found.target}"
    return headed(title, whole) + grid(["slowest layers", "predicted", "measured", "difference (%)"], rows)


def solved(plans: "Sequence[Plan]") -> str:
    """One line for each plan: totals and status."""
    rows = [
        [
            format_quantity(plan.totals.latency, "time"),
            fmt.error(plan.totals.error),
            format_quantity(plan.totals.energy_pj * 1e-12, "energy"),
            format_quantity(plan.totals.weight_bytes, "bytes"),
            "proven optimal" if plan.status == "optimal" else plan.status,
        ]
        for plan in plans
    ]
    return grid(["latency", "error", "energy", "weights", "status"], rows)


def difference(found: "PlanDiff") -> str:
    """The totals of two plans and the layers they decide otherwise."""
    totals = [
        [*fmt.total(t.name, t.before), fmt.total(t.name, t.after)[1], _change(t.relative)]
        for t in found.totals
    ]
    layers = [
        [layer.name, layer.before or fmt.MISSING, layer.after or fmt.MISSING, f"{layer.error_change:+.3g}"]
        for layer in found.layers
    ]
    changed = grid(["layer", "before", "after", "error"], layers) if layers else ""
    return grid(["quantity", "before", "after", "change"], totals) + changed


def _change(relative: float | None) -> str:
    return "" if relative is None else f"{fmt.signed(relative)} %"


def facts(title: str, found: Mapping[str, object]) -> str:
    """A title over names and values."""
    return headed(title, []) + grid(["", ""], [[name, str(value)] for name, value in found.items()])


def headed(title: str, lines: Sequence[str]) -> str:
    """A bold line over a list."""
    return f"<p><strong>{escape(title)}</strong></p>{items(lines)}"


def items(lines: Sequence[str]) -> str:
    """A list; nothing for no lines."""
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def table(found: tables.Table) -> str:
    """A table of the report; what stands for the plan is bold."""
    return grid([column.title for column in found.columns], found.rows, found.chosen)


def grid(titles: Sequence[str], rows: Sequence[Sequence[str]], chosen: frozenset[int] = frozenset()) -> str:
    """Cells as an HTML table."""
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join(f"<tr>{_cells(row, index in chosen)}</tr>" for index, row in enumerate(rows))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cells(row: Sequence[str], bold: bool) -> str:
    mark = ("<strong>", "</strong>") if bold else ("", "")
    return "".join(f"<td>{mark[0]}{escape(cell)}{mark[1]}</td>" for cell in row)
