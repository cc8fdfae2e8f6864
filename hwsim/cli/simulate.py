"""``hwsim simulate``: replay a plan, or a model in one scheme, on a described device."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hwsim.cli import complete, console
from hwsim.errors import UserError
from hwsim.stages.simulate import UNIFORM, network, replayer, write_trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwsim.model.graph import LayerGraph
    from hwsim.simulate.simulation import Simulation
    from hwsim.target.schema import Target


def simulate(
    target: Annotated[
        str,
        typer.Option(
            "--target", "-t", autocompletion=complete.targets, help="Device: a shipped name or a YAML file."
        ),
    ],
    plan: Annotated[Path | None, typer.Option(help="A plan.json that hwsim plan wrote.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", autocompletion=complete.models, help="Instead of a plan: a model's name."
        ),
    ] = None,
    scheme: Annotated[
        str | None, typer.Option(help="With --model: one scheme for all layers.", show_default="w8a8")
    ] = None,
    sweep: Annotated[
        str | None, typer.Option(help="What if: clock=1GHz:2GHz,units=1:2:4,dram_gbps=10:20.")
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option("--output-dir", "-o", help="With --sweep: write sweep.svg and sweep.html here."),
    ] = None,
    compat: Annotated[
        Literal["scalesim"] | None,
        typer.Option(help="Systolic targets: each layer as SCALE-Sim 3.0.0 counts it, and corrected."),
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="Write a Chrome (Perfetto) trace to this file.")] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="With --model: samples per inference.", show_default="1")
    ] = None,
    sequence: Annotated[
        int | None, typer.Option(min=1, help="With --model: tokens per sample of a language model.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Latency, energy, traffic and memory of one inference, tile by tile.

    Example: hwsim simulate --target edge_gpu --plan out/vit_b-edge_gpu/plan.json --trace trace.json
    Example: hwsim simulate --model resnet50 --scheme w8a8 --target edge_gpu --sweep units=1:2:4 -o out/sweep
    Example: hwsim simulate --model resnet50 --target edge_tpu --compat scalesim
    """
    from hwsim.target.load import load_target

    device = load_target(target)
    if compat is not None:
        if sweep is not None or trace is not None:
            raise UserError("--compat: counts layers without a replay; leave --sweep and --trace away")
        _print_compat(device, network(plan, model, batch=batch, sequence=sequence), json)
        return
    run = replayer(plan, model, scheme=scheme, batch=batch, sequence=sequence)
    if sweep is not None:
        if trace is not None:
            raise UserError("--sweep: simulates many devices; leave --trace away")
        _print_sweep(device, sweep, run, json, output_dir)
        return
    if output_dir is not None:
        raise UserError("--output-dir: is for the charts of a --sweep; a single replay writes --trace FILE")
    simulation = run(device)
    _note_float_layers(simulation, plan, scheme)
    if trace is not None:
        write_trace(simulation, trace)
        console.log().print(f"trace: {trace}")
    if json:
        console.print_json(simulation_document(simulation))
    else:
        _print_table(simulation)


def _note_float_layers(simulation: "Simulation", plan: Path | None, scheme: str | None) -> None:
    """Say on stderr when layers run in float although another scheme was asked."""
    left = [layer.name for layer in simulation.layers if layer.scheme == "fp"]
    if plan is None and scheme != "fp" and left:
        console.log().print(
            f"note: {len(left)} layers run in float: no engine of {simulation.device} takes {scheme or UNIFORM} there "
            f"({', '.join(left[:3])}{', …' if len(left) > 3 else ''})"
        )


def simulation_document(simulation: "Simulation") -> dict[str, Any]:
    """The simulation as plain data."""
    from dataclasses import asdict

    document = asdict(simulation)
    for table in ("schedule", "replay"):  # the tables that the figures were read from
        document.pop(table)
    document["seconds"] = simulation.seconds
    document["total_energy_pj"] = simulation.total_energy_pj
    document["cost_error"] = simulation.cost_error
    return document


def _print_table(simulation: "Simulation") -> None:
    from rich.table import Table

    from hwsim.units import format_quantity

    table = Table(box=None, pad_edge=False)
    for heading in ("layer", "kind", "scheme", "engine", "way", "bound"):
        table.add_column(heading, no_wrap=True)
    for heading in ("cycles", "share", "cost mode", "main memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in simulation.layers:
        difference = (layer.cost_cycles - layer.cycles) / layer.cycles if layer.cycles else 0.0
        table.add_row(
            layer.name if simulation.layers[-1].network == 0 else f"{layer.network}:{layer.name}",
            layer.kind,
            layer.scheme,
            layer.engine,
            layer.way,
            layer.bound,
            f"{layer.cycles:,.0f}",
            f"{100 * layer.cycles / simulation.cycles:.1f} %",
            f"{100 * difference:+.0f} %",
            format_quantity(layer.dram_bytes, "bytes") if layer.dram_bytes else "—",
        )
    console.out().print(table)
    for line in summary_lines(simulation):
        typer.echo(line)


def summary_lines(simulation: "Simulation") -> list[str]:
    """The figures of the whole inference, a line each."""
    from hwsim.units import format_quantity

    clock = simulation.clock_hz
    energy = ", ".join(
        f"{name} {format_quantity(pj * 1e-12, 'energy')}"
        for name, pj in simulation.energy_pj.items()
        if pj > 0
    )
    traffic = ", ".join(
        f"{name} {format_quantity(b, 'bytes')}" for name, b in simulation.traffic_bytes.items() if b
    )
    return [
        f"device: {simulation.device}",
        f"latency: {format_quantity(simulation.seconds, 'time')} ({simulation.cycles:,.0f} cycles; roofline "
        f"{format_quantity(simulation.roofline_cycles / clock, 'time')}, without overlap "
        f"{format_quantity(simulation.serial_cycles / clock, 'time')}, cost mode "
        f"{100 * simulation.cost_error:+.1f} %)",
        f"energy: {format_quantity(simulation.total_energy_pj * 1e-12, 'energy')} ({energy})",
        f"traffic: {traffic}",
        f"weights: {format_quantity(simulation.weight_bytes, 'bytes')} in {simulation.weight_home}; activations in "
        f"{simulation.activation_home}, peak with weights {format_quantity(simulation.peak_memory_bytes, 'bytes')}",
        f"BOPs: {format_quantity(float(simulation.bops), 'count')} (each term: MACs × weight bits × activation bits)",
        "Modelled, not measured on this device.",
    ]


def _print_compat(device: "Target", graph: "LayerGraph", json: bool) -> None:
    """Cycles of each layer on the target's systolic array, as published and corrected."""
    from hwsim.simulate.compat import compared_layers

    rows = compared_layers(device, graph)
    if json:
        console.print_json([row.document() for row in rows])
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    for heading in ("instances", "SCALE-Sim 3.0.0", "corrected", "difference", "utilisation"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.name, f"{row.instances}", f"{row.published_cycles:,}", f"{row.corrected_cycles:,}",
            f"{100 * (row.corrected_cycles / row.published_cycles - 1):+.1f} %", f"{row.utilisation:.1f} %",
        )  # fmt: skip
    console.out().print(table)
    published, corrected = (
        sum(c) for c in zip(*((r.published_cycles, r.corrected_cycles) for r in rows), strict=True)
    )
    typer.echo(
        f"all layers: {published:,} cycles as SCALE-Sim 3.0.0 counts, {corrected:,} corrected (drain, off by one): "
        f"{100 * (corrected / published - 1):+.1f} %"
    )
    typer.echo("One array, no memory stalls, layers one after the other.")


def _print_sweep(
    device: "Target", text: str, run: "Callable[[Target], Simulation]", json: bool, output_dir: Path | None
) -> None:
    from hwsim.simulate.sweep import parse_sweep, sweep

    axes = parse_sweep(text)
    points = sweep(device, axes, run)
    if output_dir is not None:
        from hwsim import files
        from hwsim.report.sweep import SweepRow, standalone_svg, sweep_html

        rows = [
            SweepRow(
                p.changes, p.simulation.seconds, p.simulation.roofline_cycles / p.simulation.clock_hz,
                p.simulation.total_energy_pj * 1e-12,
            )
            for p in points
        ]  # fmt: skip
        files.write_text(output_dir / "sweep.svg", standalone_svg(rows))
        files.write_text(output_dir / "sweep.html", sweep_html(rows, f"What if: {device.name}, {text}"))
        console.log().print(f"charts: {output_dir / 'sweep.svg'}, {output_dir / 'sweep.html'}")
    if json:
        console.print_json(
            [
                {**p.changes, "seconds": p.simulation.seconds, "energy_pj": p.simulation.total_energy_pj,
                 "roofline_seconds": p.simulation.roofline_cycles / p.simulation.clock_hz}
                for p in points
            ]
        )  # fmt: skip
        return
    from rich.table import Table

    from hwsim.units import format_quantity

    table = Table(box=None, pad_edge=False)
    for heading in (*axes, "latency", "roofline", "energy", "speed-up"):
        table.add_column(heading, justify="right", no_wrap=True)
    for point in points:
        found = point.simulation
        values = [
            format_quantity(value, "frequency") if name == "clock" else f"{value:g}"
            for name, value in point.changes.items()
        ]
        table.add_row(
            *values,
            format_quantity(found.seconds, "time"),
            format_quantity(found.roofline_cycles / found.clock_hz, "time"),
            format_quantity(found.total_energy_pj * 1e-12, "energy"),
            f"{points[0].simulation.seconds / found.seconds:.2f}x",
        )
    console.out().print(table)
