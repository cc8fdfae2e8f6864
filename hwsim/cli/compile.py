"""``hwsim compile``: from a plan or a scheme to an artifact that runs without torch."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hwsim import config
from hwsim.cli import console, options
from hwsim.stages.compile import CompileRequest, run_compile


def compile_(
    context: typer.Context,
    output_dir: options.OutputDir,
    plan: options.PlanFile = None,
    scheme: options.SchemeName = None,
    quantized: Annotated[
        Path | None, typer.Option(help="Instead of both: a directory that hwsim quantize wrote.")
    ] = None,
    model: options.ModelName = None,
    weights: options.WeightsFile = None,
    calibration_data: options.CalibrationData = None,
    samples: options.Samples = 64,
    isa: Annotated[
        str, typer.Option(help="Machine: host, x86-avx2, aarch64-dotprod, riscv64-v, cuda, c, ...")
    ] = "host",
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Cores one inference may use; default: what the plan uses, else 1."),
    ] = None,
    tune: Annotated[
        bool,
        typer.Option("--tune", help="Measure block sizes of every product on this machine; kept for later."),
    ] = False,
    batch: Annotated[int, typer.Option(min=1, help="Samples per inference.")] = 1,
    sequence: options.Sequence = None,
    seed: options.Seed = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Compile integer kernels and write a self-contained artifact.

    Example: hwsim compile --plan out/plan.json -o art/ && hwsim run art/ --input image.jpg
    """
    request = CompileRequest(
        output_dir=output_dir,
        isa=isa,
        threads=threads,
        plan=None if plan is None else console.plan_file(plan, "--plan"),
        scheme=scheme,
        quantized=quantized,
        model=model,
        weights=None if weights is None else console.existing_file(weights, "--weights"),
        calibration_data=calibration_data,
        samples=samples,
        tune=tune,
        batch=batch,
        sequence=sequence,
        seed=seed,
    )
    kept = config.kept(output_dir, "compile", console.flags(context))
    with kept, console.log().status("quantizing and lowering") as status:
        result = run_compile(request, lambda stage, done, total: status.update(f"{stage}: {done} of {total}"))
    if json:
        console.print_json(result.manifest)
        return
    _print(result.directory, result.manifest)


def _print(directory: Path, manifest: dict[str, Any]) -> None:
    integer = manifest["integer"]
    typer.echo(f"{directory}: {manifest['model']} for {manifest['machine']['name']}")
    typer.echo(f"  {manifest['steps']} steps, {manifest['kernels']} distinct kernels")
    if manifest["tuned_kernels"]:
        typer.echo(f"  {manifest['tuned_kernels']} kernels with tuned block sizes")
    typer.echo(f"  {_units_line(manifest['units'])}")
    typer.echo(f"  {100 * integer['integer_share']:.2f} % of multiply-accumulates in integer")
    for layer in integer["float_layers"]:
        typer.echo(f"  in float: layer {layer}")
    for remark in manifest["remarks"]:
        typer.echo(f"  note: {remark}")


def _units_line(units: dict[str, Any]) -> str:
    """How the parallel units are used."""
    if units["count"] == 1:
        return "one core"
    ways = ", ".join(f"{count} layers by {way}" for way, count in units["ways"].items() if way != "single")
    if units["predictors"] > 1:
        ways = f"{units['predictors']} predictors side by side"
    return f"{units['count']} cores: {ways or 'every layer by rows'}"
