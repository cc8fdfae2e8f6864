"""``hwsim quantize``: integer weights and activation quantizers from a plan or a scheme."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hwsim import config
from hwsim.cli import console, options
from hwsim.cli.progress import stage_progress
from hwsim.errors import UserError
from hwsim.stages.quantize import QuantizeRequest, QuantizeResult, run_quantize
from hwsim.units import format_quantity


def quantize(
    context: typer.Context,
    output_dir: options.OutputDir,
    plan: options.PlanFile = None,
    scheme: options.SchemeName = None,
    model: options.ModelName = None,
    weights: options.WeightsFile = None,
    calibration_data: options.CalibrationData = None,
    samples: options.Samples = 64,
    range_method: Annotated[
        str | None,
        typer.Option(help="Activation ranges from calibration: minmax, percentile or mse (the default)."),
    ] = None,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Activation scales of linear layers per token, at run time.")
    ] = False,
    recipe: Annotated[
        str | None,
        typer.Option(help="Methods to fit, for example repquant+bc; default: those of the plan or scheme."),
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="For text: tokenizer.json or its folder.")] = None,
    sequence: options.Sequence = None,
    seed: options.Seed = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Quantize a model as planned and save it: 4-bit weights take 4 bits.

    Example: hwsim quantize --plan out/plan.json --calibration-data images/ -o out/quantized
    Example: hwsim quantize --model resnet18 --scheme w4a8 -o out/quantized
    """
    if range_method not in (None, "minmax", "percentile", "mse"):
        raise UserError(f"--range-method {range_method!r}: choose minmax, percentile or mse")
    if dynamic and calibration_data is None:
        console.log().print("attention products keep static ranges, here from synthetic inputs")
    with config.kept(output_dir, "quantize", console.flags(context)), stage_progress() as bar:
        result = run_quantize(
            QuantizeRequest(
                output_dir=output_dir,
                plan=None if plan is None else console.plan_file(plan, "--plan"),
                scheme=scheme,
                model=model,
                weights=None if weights is None else console.existing_file(weights, "--weights"),
                calibration_data=calibration_data,
                samples=samples,
                range_method=range_method,  # pyright: ignore[reportArgumentType]  # checked above
                dynamic=dynamic,
                recipe=recipe,
                tokenizer=tokenizer,
                sequence=sequence,
                seed=seed,
            ),
            bar.reach,
        )
    document = summary(result)
    if json:
        console.print_json(document)
        return
    print_summary(document)


def summary(result: QuantizeResult) -> dict[str, Any]:
    """What was written, as plain values."""
    record = result.record
    schemes: dict[str, int] = {}
    for layer in result.model.layers.values():
        schemes[str(layer.scheme)] = schemes.get(str(layer.scheme), 0) + 1
    return {
        "directory": str(result.directory),
        "model": record.model,
        "layers": len(result.model.layers),
        "schemes": schemes,
        "weights_bytes": (result.directory / "weights.safetensors").stat().st_size,
        "range_source": record.range_source,
        "calibration": record.calibration,
        "recipe": record.recipe,
        "referee": list(record.referee),
        "quantized_sha256": record.quantized_sha256,
        "remarks": list(record.remarks),
    }


def print_summary(document: dict[str, Any]) -> None:
    """The same for people."""
    out = console.out()
    out.print(f"{document['model']}: {document['layers']} layers quantized → {document['directory']}")
    for scheme, count in document["schemes"].items():
        out.print(f"  {scheme}: {count}")
    out.print(
        f"  {format_quantity(document['weights_bytes'], 'bytes')}, activation ranges: {document['range_source']}"
    )
    for remark in document["remarks"]:
        out.print(f"  note: {remark}")
