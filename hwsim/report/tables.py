"""The tables of the report as text cells, so that HTML, Markdown and terminal show the same ones."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hwsim.report import format as fmt
from hwsim.report.document import ComparisonRow, LayerRow, Report

FURTHEST = 10


@dataclass(frozen=True)
class Column:
    """One column; figures are set to the right."""

    title: str
    figure: bool = False


@dataclass(frozen=True)
class Table:
    """Cells by row; ``chosen`` are the rows that stand for this plan."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: list[list[str]]
    chosen: frozenset[int] = field(default_factory=frozenset[int])
    sortable: bool = False

    def picked(self, titles: Sequence[str]) -> "Table":
        """The same rows with only these columns."""
        kept = [index for index, column in enumerate(self.columns) if column.title in titles]
        columns = tuple(self.columns[index] for index in kept)
        rows = [[row[index] for index in kept] for row in self.rows]
        return Table(self.name, self.caption, columns, rows, self.chosen, self.sortable)


def named_columns(words: str, figures: str) -> tuple[Column, ...]:
    """Columns from names between bars; ``figures`` are the places of those that hold figures, like ``2-7``."""
    first, _, last = figures.partition("-")
    return tuple(
        Column(title.strip(), int(first) <= place <= int(last))
        for place, title in enumerate(words.split("|"))
    )


def comparison(report: Report) -> Table:
    """This plan among the other forms of the network."""
    rows = [_comparison_cells(row) for row in report.comparison]
    columns = named_columns(
        "form | scheme | weights | BOPs | cycles | latency | energy | predicted error (nats) | note", "2-7"
    )
    chosen = frozenset(index for index, row in enumerate(report.comparison) if row.chosen)
    return Table("comparison", "Forms of the network on this device", columns, rows, chosen)


def _comparison_cells(row: ComparisonRow) -> list[str]:
    return [
        row.name,
        row.scheme,
        fmt.quantity(row.weight_bytes, "bytes"),
        fmt.quantity(row.bops, "count"),
        fmt.cycles(row.cycles),
        fmt.quantity(row.seconds, "time"),
        fmt.quantity(row.energy_joules, "energy"),
        fmt.error(row.error),
        row.note,
    ]


def layers(report: Report) -> Table:
    """Every layer in the order of execution."""
    columns = named_columns(
        "layer | kind | scheme | unit | engine | way | MACs (M) | BOPs (G) | predicted (cycles) | "
        "simulated (cycles) | difference (%) | time (%) | error (nats) | × float | bound | runner-up | its cost",
        "6-13",
    )
    return Table(
        "layers", "Layers of the plan", columns, [_layer_cells(row) for row in report.layers], sortable=True
    )


def _layer_cells(row: LayerRow) -> list[str]:
    product = row.is_product
    return [
        row.name,
        row.kind,
        row.scheme,
        row.unit,
        row.engine,
        row.way,
        fmt.plain(row.macs / 1e6) if product else "",
        fmt.plain(row.bops / 1e9) if product else "",
        fmt.cycles(row.predicted_cycles),
        fmt.cycles(row.simulated_cycles),
        "" if row.difference is None else fmt.signed(row.difference),
        f"{100 * row.share_of_time:.2f}",
        fmt.error(row.error) if product else "",
        "" if row.faster_than_float is None else f"{row.faster_than_float:.2f}",
        row.bound,
        row.runner_up,
        row.runner_up_cost,
    ]


def frontier(report: Report) -> Table:
    """The proven points, fastest first, with the chosen one among them."""
    points = sorted(report.pareto, key=lambda point: (point.seconds, point.error))
    rows = [
        [fmt.quantity(p.seconds, "time"), fmt.error(p.error), "this plan" if p.chosen else "proven"]
        for p in points
    ]
    chosen = frozenset(index for index, point in enumerate(points) if point.chosen)
    columns = named_columns("latency | predicted error (nats) | point", "0-1")
    return Table("frontier", "Points of the frontier", columns, rows, chosen)


def sensitivity(report: Report, most: int = 10) -> Table:
    """The layers that quantization hurts most, under their cheapest option and under the plan's."""
    found = report.sensitivity
    columns = named_columns(
        "layer | worst option | its error (nats) | plan's scheme | plan's error (nats)", "2-2"
    )[:4]
    columns += (Column("plan's error (nats)", figure=True),)
    if found is None:
        return Table("sensitivity", "Most sensitive layers", columns, [])
    by_name = {row.name: row for row in report.layers}
    worst: list[tuple[float, str, str]] = []
    for name, errors in zip(found.layers, found.errors, strict=True):
        pairs = [(e, s) for e, s in zip(errors, found.schemes, strict=True) if e is not None]
        if pairs:
            worst.append((*max(pairs), name))
    rows = [
        [name, scheme, fmt.error(error), by_name[name].scheme, fmt.error(by_name[name].error)]
        for error, scheme, name in sorted(worst, reverse=True)[:most]
        if name in by_name
    ]
    return Table("sensitivity", "Most sensitive layers", columns, rows)


def furthest(report: Report) -> Table:
    """The layers whose prediction is furthest off in time."""
    gaps = [
        (abs((row.simulated_cycles or 0.0) - row.predicted_cycles), row)
        for row in report.layers
        if row.simulated_cycles is not None
    ]
    gaps.sort(key=lambda pair: (-pair[0], pair[1].name))
    rows = [
        [
            row.name, row.scheme, fmt.cycles(row.predicted_cycles), fmt.cycles(row.simulated_cycles),
            "" if row.difference is None else fmt.signed(row.difference), fmt.percent(row.share_of_time),
        ]
        for _, row in gaps[:FURTHEST]
    ]  # fmt: skip
    columns = named_columns(
        "layer | scheme | predicted (cycles) | simulated (cycles) | difference (%) | share of time", "2-5"
    )
    check = report.validation
    total = [
        "total", "", fmt.cycles(check.predicted_cycles), fmt.cycles(check.simulated_cycles),
        fmt.signed(check.difference), fmt.percent(1.0),
    ]  # fmt: skip
    return Table(
        "prediction", "The total and the layers furthest off", columns, [total, *rows], frozenset({0})
    )


def measured(report: Report) -> Table:
    """The device beside the simulation of its descriptor: total and every layer."""
    found = report.measurement
    columns = named_columns("layer | kind | simulated | measured | difference (%)", "2-4")
    if found is None:
        return Table("measured", "Not measured", columns, [])
    times = [("total", "", found.simulated_seconds, found.measured_seconds)]
    times += [
        (layer.name, layer.kind, layer.simulated_seconds, layer.measured_seconds) for layer in found.layers
    ]
    rows = [
        [name, kind, fmt.quantity(simulated, "time"), fmt.quantity(seconds, "time"),
         fmt.signed(simulated / seconds - 1) if seconds else fmt.MISSING]
        for name, kind, simulated, seconds in times
    ]  # fmt: skip
    caption = (
        f"Measured on {found.device} ({fmt.quantity(found.low, 'time')} to {fmt.quantity(found.high, 'time')}), "
        f"simulated with {found.descriptor}; vector work counts to the layer whose kernel does it"
    )
    return Table("measured", caption, columns, rows, frozenset({0}), sortable=True)


def anytime(report: Report) -> Table:
    """The expansion, order by order."""
    rows = [
        [str(p.order), p.scheme, fmt.quantity(p.seconds, "time"), fmt.error(p.error),
         fmt.quantity(p.weight_bytes, "bytes")]
        for p in report.anytime
    ]  # fmt: skip
    columns = named_columns("order | scheme | latency | predicted error (nats) | weights", "2-4")
    return Table("anytime", "Stopping after each order", columns, rows)


def energy(report: Report) -> Table:
    """Energy of one inference by component."""
    total = sum(report.energy_by_component.values())
    parts = sorted(report.energy_by_component.items(), key=lambda part: (-part[1], part[0]))
    rows = [[name, fmt.quantity(j, "energy"), fmt.percent(j / total if total else None)] for name, j in parts]
    rows.append(["total", fmt.quantity(total, "energy"), fmt.percent(1.0 if total else None)])
    columns = named_columns("component | energy | share", "1-2")
    return Table("energy", "Energy of one inference", columns, rows, frozenset({len(rows) - 1}))


def provenance(report: Report) -> list[tuple[str, str]]:
    """What the plan rests on, as terms and values."""
    known = report.provenance
    return [
        ("model", f"{known.model} (asked as {known.model_spec})"),
        ("weights", known.weights),
        ("target", f"{known.target}, sha256 {known.target_sha256}"),
        ("graph", f"sha256 {known.graph_sha256}"),
        ("plan", f"sha256 {known.plan_sha256}"),
        ("sensitivity", known.sensitivity),
        ("seed", str(known.seed)),
        ("solver", report.solver),
        ("versions", ", ".join(f"{name} {version}" for name, version in sorted(known.versions.items()))),
        ("time by stage", ", ".join(f"{stage.name} {stage.seconds:.2f} s" for stage in report.stages)),
    ]


def memory_lines(report: Report) -> list[str]:
    """Peak and homes in sentences."""
    lines = [f"Peak of weights and live activations: {fmt.quantity(report.peak_memory_bytes, 'bytes')}."]
    if report.memory is not None:
        use = report.memory
        lines.append(f"Weights: {fmt.quantity(use.weight_bytes, 'bytes')} in {use.weight_home}.")
        if use.points:
            peak = max(use.points, key=lambda point: point.activation_bytes)
            size = fmt.quantity(peak.activation_bytes, "bytes")
            lines.append(f"Most live activations: {size} in {use.activation_home}, at {peak.layer}.")
    return lines


def within_bound(report: Report) -> str:
    """How much of the time lies in layers whose own difference is inside the bound of the total."""
    bound = report.validation.bound
    inside = sum(
        r.share_of_time for r in report.layers if r.difference is not None and abs(r.difference) <= bound
    )
    return f"Layers within ±{fmt.percent(bound, 0)} on their own hold {fmt.percent(inside)} of the time."
