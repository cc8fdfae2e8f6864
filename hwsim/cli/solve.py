"""``hwsim solve`` and ``hwsim plan diff``: the planner alone, from tables to a plan, and plans side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwsim.cli import console
from hwsim.units import format_quantity

if TYPE_CHECKING:
    from planner.control import ProgressCallback
    from planner.diff import PlanDiff
    from planner.plan import Plan

_PICO = 1e-12


def solve(
    context: typer.Context,
    tables: Annotated[Path, typer.Argument(help="Option tables: JSON as planner.tables defines it.")],
    max_latency: Annotated[str | None, typer.Option(help="For example 4ms.")] = None,
    max_bops: Annotated[str | None, typer.Option(help="Bit operations, for example 30G.")] = None,
    max_weight_memory: Annotated[str | None, typer.Option(help="For example 20MiB.")] = None,
    max_activation_memory: Annotated[str | None, typer.Option(help="Peak, for example 512KiB.")] = None,
    max_energy: Annotated[str | None, typer.Option(help="Per inference, for example 50mJ.")] = None,
    max_error: Annotated[float | None, typer.Option(help="In the unit of the tables.")] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="error, latency, energy, bops, weight_memory or activation_memory; two with a comma: "
            "the second decides among the best of the first. Default: error; needs a limit."
        ),
    ] = None,
    pin: Annotated[list[str] | None, typer.Option(help="Fix layers: 'head=w8a8'. Repeatable.")] = None,
    forbid: Annotated[list[str] | None, typer.Option(help="Rule out: 'blocks.0.*=w2*'. Repeatable.")] = None,
    ensembles: Annotated[bool, typer.Option(help="Consider ensembles that the tables offer.")] = True,
    pareto: Annotated[int, typer.Option(min=0, max=1000, help="Print this many proven frontier points.")] = 0,
    alternatives: Annotated[int, typer.Option(min=0, max=20, help="Further diverse plans.")] = 0,
    explain: Annotated[bool, typer.Option(help="Find what 1 % more of each limit would buy.")] = True,
    warm_start: Annotated[Path | None, typer.Option(help="A former plan.json to start from.")] = None,
    time_limit: Annotated[str, typer.Option(help="For the whole search, for example 60s.")] = "60s",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the solver.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Solver threads.")] = 1,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the plan to this file.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Choose one option per layer from TABLES, proven optimal inside the limits.

    Example: hwsim solve tables.json --max-latency 4ms --pin 'head=w8a8'
    """
    from hwsim.stages.search import search_flags
    from hwsim.stages.solve import InfeasibleTables, run_solve, solve_request

    request = solve_request(ensembles=ensembles, pareto=pareto, **search_flags(context.params))
    try:
        with _Bar() as bar:
            plans = run_solve(tables, request, pareto=pareto, warm_start=warm_start, progress=bar.callback)
    except InfeasibleTables as error:
        if json:
            console.print_json(error.report)
        raise
    _write_and_print(plans, output, json, pareto)
    if any(plan.stopped == "interrupted" for plan in plans):
        raise typer.Exit(130)


class _Bar:
    """One line on a terminal with the phase, the best value and the gap."""

    def __init__(self) -> None:
        self.callback: ProgressCallback | None = None

    def __enter__(self) -> "_Bar":
        if console.shows_progress():
            from planner.control import Progress

            self._status = console.log().status("solving")
            self._status.start()

            def show(step: Progress) -> None:
                value = "no plan yet" if step.value is None else f"best {step.value:.6g}"
                gap = "" if step.gap is None else f", gap {step.gap:.2%}"
                self._status.update(f"{step.phase}: {value}{gap} ({step.seconds:.1f} s)")

            self.callback = show
        return self

    def __exit__(self, *_: object) -> None:
        if self.callback is not None:
            self._status.stop()


def _write_and_print(plans: "tuple[Plan, ...]", output: Path | None, json: bool, asked: int) -> None:
    from hwsim.files import write_text
    from hwsim.stages.solve import plans_text

    many = asked > 0
    documents = [plan.model_dump(mode="json") for plan in plans]
    if output is not None:
        write_text(output, plans_text(plans, many=many))
    if json:
        console.print_json(documents if many else documents[0])
    elif many:
        _print_frontier(plans, asked)
    else:
        _print_plan(plans[0])


def _print_frontier(plans: "tuple[Plan, ...]", asked: int) -> None:
    from rich.table import Table

    table = Table("latency", "error", "energy", "weights", "status", box=None)
    for plan in plans:
        totals = plan.totals
        table.add_row(
            format_quantity(totals.latency, "time"),
            f"{totals.error:.4g}",
            format_quantity(totals.energy_pj * _PICO, "energy"),
            format_quantity(totals.weight_bytes, "bytes"),
            plan.status,
        )
    console.out().print(table)
    if len(plans) < asked:
        reason = "the frontier has no more, unless --time-limit ended the search"
        console.out().print(f"{len(plans)} of {asked} points: {reason}", soft_wrap=True)


def _print_plan(plan: "Plan") -> None:
    from rich.table import Table

    from hwsim.stages.infeasible import quantity_text

    out = console.out()
    totals, proof = plan.totals, plan.proof[0]
    proven = (
        "proven optimal" if plan.status == "optimal" else f"gap {proof.gap:.3%} ({plan.stopped or 'open'})"
    )
    out.print(
        f"{plan.model or 'plan'} on {plan.target or 'tables'}: {format_quantity(totals.latency, 'time')}, "
        f"error {totals.error:.4g} nats, {format_quantity(totals.weight_bytes, 'bytes')} weights; {proven}; "
        f"{plan.options_before} options, {plan.options_after} undominated, {plan.options_solver} in the solver",
        soft_wrap=True,
    )
    if plan.ensemble is not None:
        out.print(f"ensemble of {plan.ensemble.predictors} expanded networks on {plan.ensemble.units} units")
    first = plan.request.objective[0]
    for use in plan.limits:
        price = use.gain_of_one_percent
        buys = f"; 1 % more lowers the {first} by {quantity_text(first, price, 3)}" if price else ""
        binds = {True: "binds", False: "does not bind", None: "not examined"}[use.binding]
        used, limit = (quantity_text(use.name, value) for value in (use.used, use.limit))
        name = use.name.replace(":", " ").replace("_", " ")
        out.print(f"limit {name}: {used} of {limit}, {binds}{buys}")
    table = Table("layer", "scheme", "engine", "way", "cycles", "error", "runner-up", "its change", box=None)
    for layer in plan.layers:
        other = layer.runner_up
        change = "" if other is None else f"error {other.error_change:+.2g}, {other.cycles_change:+d} cycles"
        if other is not None and other.breaks:
            change += f"; breaks {', '.join(other.breaks)}"
        table.add_row(
            layer.name,
            layer.scheme,
            layer.engine,
            layer.way,
            str(layer.cycles),
            f"{layer.error:.3g}",
            "" if other is None else f"{other.scheme} {other.way}",
            change,
        )
    out.print(table)


def diff(
    before: Annotated[Path, typer.Argument(help="A plan.json.")],
    after: Annotated[Path, typer.Argument(help="Another plan.json of the same model.")],
    json: Annotated[bool, typer.Option("--json", help="Print the difference as JSON.")] = False,
) -> None:
    """Show what two plans decide differently and what that changes.

    Example: hwsim plan diff a/plan.json b/plan.json
    """
    from hwsim.stages.solve import run_diff

    found = run_diff(before, after)
    if json:
        console.print_json(found.model_dump(mode="json"))
    else:
        _print_diff(found)


def _print_diff(found: "PlanDiff") -> None:
    from rich.table import Table

    from hwsim.report import format as fmt

    out = console.out()
    totals = Table("quantity", "before", "after", "change", box=None)
    for total in found.totals:
        change = "" if total.relative is None else f"{fmt.signed(total.relative)} %"
        title, before = fmt.total(total.name, total.before)
        totals.add_row(title, before, fmt.total(total.name, total.after)[1], change)
    out.print(totals)
    if found.layers:
        layers = Table("layer", "before", "after", "error", "cycles", box=None)
        for layer in found.layers:
            layers.add_row(
                layer.name,
                layer.before or "—",
                layer.after or "—",
                f"{layer.error_change:+.3g}",
                f"{layer.cycles_change:+d}",
            )
        out.print(layers)
    out.print(f"{len(found.layers)} layers differ, {found.unchanged} are the same")
    if not found.same_tables:
        out.print("the plans were made from different tables")
