"""``hwsim bench``: what the simulator says of a compiled artifact, and what the device says."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwsim.cli import console

if TYPE_CHECKING:
    from hwsim.measure.bench import Bench


def bench(
    artifact: Annotated[Path, typer.Argument(help="Folder that hwsim compile wrote.")],
    target: Annotated[
        str, typer.Option("--target", "-t", help="Descriptor, best one that hwsim target calibrate wrote.")
    ],
    scheme: Annotated[str | None, typer.Option(help="Scheme of the artifact where it holds no plan.")] = None,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Rounds of measurement.")] = 5,
    rpc: Annotated[
        str | None, typer.Option(help="Measure behind a TVM RPC server, HOST:PORT, not here.")
    ] = None,
    key: Annotated[str, typer.Option(help="Key of the RPC server.")] = "",
    report: Annotated[
        Path | None, typer.Option(help="Directory of the plan: its report also gets what is measured here.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure an artifact layer by layer and whole, beside the simulator's prediction.

    Example: hwsim bench art/ --target my_host.yaml
    Example: hwsim bench art/ --target my_host.yaml --report out/vit_b-my_host
    """
    from hwsim.stages.bench import bench_artifact
    from hwsim.target.load import load_target

    folder = None if report is None else str(report)
    found = bench_artifact(
        artifact, load_target(target), scheme=scheme, rounds=rounds, rpc=rpc, key=key, report=folder
    )
    if json:
        console.print_json(found.document())
        return
    _print(found)


def _print(found: "Bench") -> None:
    from rich.table import Table

    from hwsim.units import format_quantity

    table = Table(box=None, pad_edge=False)
    for heading in ("layer", "kind"):
        table.add_column(heading, no_wrap=True)
    for heading in ("predicted", "measured", "low", "high", "difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in found.layers:
        times = (layer.predicted, layer.measured.median, layer.measured.low, layer.measured.high)
        cells = [format_quantity(seconds, "time") for seconds in times]
        table.add_row(layer.name, layer.kind, *cells, f"{100 * layer.error:+.1f} %")
    console.out().print(table)
    typer.echo(f"{found.model} on {found.device}, predicted with {found.target}")
    typer.echo(
        f"whole inference: predicted {format_quantity(found.predicted, 'time')}, measured "
        f"{format_quantity(found.measured.median, 'time')} "
        f"({format_quantity(found.measured.low, 'time')} to {format_quantity(found.measured.high, 'time')}): "
        f"{100 * found.error:+.1f} %; median difference of a layer {100 * found.median_layer_error:.1f} %"
    )
    if found.remark:
        console.log().print(f"note: {found.remark}", soft_wrap=True)
