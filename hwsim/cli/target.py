"""``hwsim target``: list, show, validate and measure device descriptors, print their schema."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwsim.cli import complete, console
from hwsim.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import rich.table

    from hwsim.measure.fitted import Checked
    from hwsim.target.schema import Target

app = typer.Typer(
    no_args_is_help=True,
    help="Device descriptors: list, show, validate, calibrate, fit, schema.\n\nExample: hwsim target show edge_gpu",
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(json: Json = False) -> None:
    """The descriptors that ship.

    Example: hwsim target list
    """
    from hwsim.target.load import list_targets, load_target

    targets = [load_target(name) for name in list_targets()]
    if json:
        console.print_json([_summary(target) for target in targets])
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("target", no_wrap=True)
    table.add_column("class", no_wrap=True)
    for heading in ("units", "clock", "int8 TOPS", "memory GB/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("widths of linear")
    table.add_column("description")
    for target in targets:
        row = _summary(target)
        table.add_row(
            row["name"],
            row["class"],
            f"{row['units']}",
            _clock(target.clock_hz),
            _number(row["peak_int8_tops"]),
            _number(row["memory_bytes_per_second"] / 1e9),
            _widths(target.legal_widths("linear")),
            target.description,
        )
    console.out().print(table)


@app.command()
def show(
    target: Annotated[
        str,
        typer.Argument(autocompletion=complete.targets, help="Short name (edge_gpu) or path of a YAML file."),
    ],
    json: Json = False,
) -> None:
    """One descriptor with everything filled in, and where each value comes from.

    Example: hwsim target show edge_gpu
    """
    from hwsim.target.load import load_target

    found = load_target(target)
    if json:
        console.print_json(describe(found))
        return
    from hwsim.target.show import tables

    out = console.out()
    for part in tables(found):
        out.print(part)


@app.command()
def validate(
    targets: Annotated[
        list[str], typer.Argument(autocompletion=complete.targets, help="Short names or paths of YAML files.")
    ],
    json: Json = False,
) -> None:
    """Check descriptors; every mistake is printed with file, line and column.

    Example: hwsim target validate my_device.yaml
    """
    from hwsim.target.load import load_target

    reports: list[dict[str, Any]] = []
    for name in targets:
        try:
            target = load_target(name)
        except UserError as error:
            reports.append({"target": name, "valid": False, "errors": str(error).splitlines()})
        else:
            reports.append({"target": name, "valid": True, "name": target.name, "sha256": target.sha256})
    if json:
        console.print_json(reports)
    for report in reports:
        if report["valid"] and not json:
            typer.echo(f"{report['target']}: valid ({report['name']}, sha256 {report['sha256'][:12]})")
        if not report["valid"]:
            typer.echo(os.linesep.join(report["errors"]), err=True)
    if not all(report["valid"] for report in reports):
        raise typer.Exit(UserError.exit_code)


@app.command()
def calibrate(
    output: Annotated[Path, typer.Option("--output", "-o", help="Descriptor to write.")],
    name: Annotated[str | None, typer.Option(help="Name of the device; default: the file's.")] = None,
    threads: Annotated[
        int, typer.Option(min=1, max=64, help="Cores that one inference uses, as in hwsim compile.")
    ] = 1,
    isa: Annotated[str, typer.Option(help="Machine: host, x86-avx2, aarch64-dotprod, ...")] = "host",
    rpc: Annotated[
        str | None, typer.Option(help="Measure behind a TVM RPC server, HOST:PORT, not here.")
    ] = None,
    key: Annotated[str, typer.Option(help="Key of the RPC server.")] = "",
    json: Json = False,
) -> None:
    """Measure this machine (or one behind --rpc) with compiled kernels and write its descriptor.

    Example: hwsim target calibrate -o my_host.yaml
    """
    from hwsim import files
    from hwsim.measure.calibrate import calibrate_machine
    from hwsim.measure.descriptor_file import descriptor_yaml
    from hwsim.measure.remote import open_device

    if rpc is not None and threads > 1:
        raise UserError("--threads: behind --rpc one core is measured; leave --threads away")
    device = open_device(rpc, key, isa)
    found = calibrate_machine(
        device, name or output.stem, threads, lambda text: console.log().print(f"calibrate: {text}")
    )
    command = f"hwsim target calibrate -o {output.name}" + (f" --threads {threads}" if threads > 1 else "")
    clock = f"Clock: derived, {_clock(found.target.clock_hz)}."
    files.write_text(output, descriptor_yaml(found.target, command, [clock, *found.remarks()]))
    if json:
        console.print_json(describe(found.target))
        return
    typer.echo(f"{output}: {found.target.description}")
    for line in found.remarks():
        typer.echo(f"  {line}")


@app.command()
def fit(
    target: Annotated[
        str,
        typer.Argument(autocompletion=complete.targets, help="Short name (hexagon) or path of a YAML file."),
    ],
    measured: Annotated[
        Path, typer.Option(help="CSV with columns network, scheme, latency (1.8ms) and, if several, device.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Descriptor to write.")],
    device: Annotated[
        str | None, typer.Option(help="Which device of the table; the others tell of its class.")
    ] = None,
    relative: Annotated[
        bool, typer.Option("--relative", help="The descriptor is of another device of the same family.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="Name of the device; default: the file's.")] = None,
    json: Json = False,
) -> None:
    """Adjust a descriptor until whole networks take as long as they were measured to take.

    Example: hwsim target fit hexagon --measured phone.csv -o phone.yaml
    """
    from hwsim import files
    from hwsim.measure.descriptor_file import descriptor_yaml
    from hwsim.measure.fitted import fit_rows, read_rows
    from hwsim.target.load import load_target

    base = load_target(target).replace({"name": name or output.stem})
    found = fit_rows(base, read_rows(measured), device, relative)
    command = f"hwsim target fit {Path(target).name} --measured {measured.name} -o {output.name}"
    files.write_text(output, descriptor_yaml(found.target, command, found.remarks()))
    if json:
        console.print_json({"target": describe(found.target), "rows": [row.document() for row in found.rows]})
        return
    console.out().print(_checked_rows(found.rows))
    typer.echo(f"{output}: {found.remarks()[0]}")


def _checked_rows(rows: "Sequence[Checked]") -> "rich.table.Table":
    import rich.table

    from hwsim.units import format_quantity

    table = rich.table.Table(box=None, pad_edge=False)
    for heading in ("network", "scheme"):
        table.add_column(heading, no_wrap=True)
    for heading in ("measured", "before", "fitted", "without it"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        seconds = (row.seconds, row.before, row.after, row.held_out)
        shown = ("—" if value is None else format_quantity(value, "time") for value in seconds)
        table.add_row(row.network, row.scheme, *shown)
    return table


@app.command()
def schema(json: Json = True) -> None:
    """The JSON Schema of a descriptor, for editors and other programs.

    Example: hwsim target schema
    """
    from hwsim.target.schema import json_schema

    console.print_json(json_schema())


def describe(target: "Target") -> dict[str, Any]:
    """A descriptor as plain data: as given, as resolved, and where each value comes from."""
    from hwsim.target.engines import PRODUCTS
    from hwsim.target.parts import VECTOR_KINDS

    floats = target.float_path
    return {
        "document": target.document(),
        "sha256": target.sha256,
        "provenance": target.provenance(),
        "resolved": {
            "sync_cycles": target.sync_cycles,
            "layer_launch_cycles": target.layer_launch_cycles,
            "inference_launch_cycles": target.inference_launch_cycles,
            "peak_tops": {
                f"w{w}a{a}": target.peak_tops(w, a)
                for w, a in sorted({pair for kind in PRODUCTS for pair in target.native_widths(kind)})
            },
            "widths": {
                kind: [f"w{w}a{a}" for w, a in target.legal_widths(kind)]
                for kind in PRODUCTS
                if target.engines_for(kind)
            },
            "engine_efficiency": {e.name: target.engine_efficiency(e) for e in target.engines},
            "float_macs_per_cycle": None if floats is None else floats.macs_per_cycle,
            "vector_elements_per_cycle": {kind: target.vector_rate(kind) for kind in VECTOR_KINDS},
            "memories": [
                {
                    "name": level.name,
                    "kind": level.kind,
                    "bytes": None if level.capacity == float("inf") else level.capacity,
                    "bytes_per_cycle": level.bytes_per_cycle,
                    "efficiency": level.efficiency,
                    "shared": level.shared,
                    "byte_pj": level.byte_pj,
                }
                for level in target.levels
            ],
            "static_w": target.static_w,
        },
    }


def _summary(target: "Target") -> dict[str, Any]:
    outermost = target.levels[-1]
    parts = 1 if outermost.shared else target.unit_count
    return {
        "name": target.name,
        "class": target.device_class,
        "description": target.description,
        "units": target.unit_count,
        "clock_hz": target.clock_hz,
        "peak_int8_tops": target.peak_tops(8, 8),
        "memory_bytes_per_second": outermost.bytes_per_cycle * target.clock_hz * parts,
        "linear_widths": [f"w{w}a{a}" for w, a in target.legal_widths("linear")],
        "power_w": target.power_w,
        "sha256": target.sha256,
    }


def _number(value: float) -> str:
    """Three digits, never an exponent; a dash for what there is not."""
    return f"{value:.3g}" if 1e-3 <= value < 1000 else f"{value:.0f}" if value else "—"


def _clock(hertz: float) -> str:
    from hwsim.units import format_quantity

    return format_quantity(hertz, "frequency")


def _widths(pairs: list[tuple[int, int]]) -> str:
    """All pairs where they are few, else their range."""
    if len(pairs) <= 4:
        return " ".join(f"w{w}a{a}" for w, a in pairs)
    weights, acts = zip(*pairs, strict=True)
    return f"w{min(weights)}–{max(weights)} a{min(acts)}–{max(acts)} ({len(pairs)} pairs)"
