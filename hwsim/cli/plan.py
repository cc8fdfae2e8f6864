"""``hwsim plan``: from a model and a device to a proven plan and a report."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from hwsim.cli import console
from hwsim.errors import UserError, ViolationError
from hwsim.stages.request import Limits, PlanRequest, Widths
from hwsim.units import Dimension, parse_quantity


def _limit(text: str | None, dimension: Dimension, flag: str) -> float | None:
    return None if text is None else parse_quantity(text, dimension, flag)


app = typer.Typer(
    invoke_without_command=True,
    help="Choose bits, expansion order, sparsity and use of units for each layer, proven optimal.",
)


@app.callback()
def plan(
    context: typer.Context,
    target: Annotated[
        str, typer.Option("--target", "-t", help="Device: a shipped name or a YAML file.")
    ] = "",
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="Short name, timm:NAME, hf:NAME, FILE.pt2 or FILE.py:factory."),
    ] = "",
    weights: Annotated[
        Path | None, typer.Option(help="Weights: .safetensors, or .pth without pickled code.")
    ] = None,
    calibration_data: Annotated[
        str | None, typer.Option(help="Folder, zip or .npz with samples for the error model.")
    ] = None,
    bits: Annotated[str, typer.Option(help="Allowed widths: 4,8 or w4a8,w8a8.")] = "",
    max_latency: Annotated[str | None, typer.Option(help="For example 4ms.")] = None,
    max_bops: Annotated[str | None, typer.Option(help="Bit operations, for example 30G.")] = None,
    max_weight_memory: Annotated[str | None, typer.Option(help="For example 20MiB.")] = None,
    max_activation_memory: Annotated[
        str | None, typer.Option(help="Peak of live activations, for example 512KiB.")
    ] = None,
    max_energy: Annotated[str | None, typer.Option(help="Per inference, for example 50mJ.")] = None,
    max_error: Annotated[float | None, typer.Option(help="Predicted output error in nats.")] = None,
    objective: Annotated[
        str | None,
        typer.Option(help="error, latency or energy. Default: error under limits; latency without."),
    ] = None,
    pin: Annotated[list[str] | None, typer.Option(help="Fix layers: 'head=w8a8'. Repeatable.")] = None,
    forbid: Annotated[
        list[str] | None, typer.Option(help="Rule out options: 'blocks.0.*=w2*'. Repeatable.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples per inference.")] = 1,
    sequence: Annotated[
        int | None, typer.Option(min=1, help="Tokens per sample of a language model.")
    ] = None,
    pareto: Annotated[
        int, typer.Option(min=0, max=50, help="Also prove this many points of the frontier.")
    ] = 0,
    time_limit: Annotated[str, typer.Option(help="For the solver, for example 60s.")] = "60s",
    seed: Annotated[int, typer.Option(min=0, help="Seed of random weights, probes and solver.")] = 0,
    workers: Annotated[
        int, typer.Option(min=1, help="Solver threads; more than 1 may pick another equal plan.")
    ] = 1,
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", "-o", help="Default: out/MODEL-TARGET.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    strict: Annotated[bool, typer.Option(help="Exit 4 when something asked is not honoured.")] = False,
    resume: Annotated[
        bool, typer.Option(help="Reuse the tables in the output directory when their inputs are unchanged.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Say what would be done and estimate its cost; write nothing.")
    ] = False,
) -> None:
    """Choose bits, expansion order, sparsity and use of units for each layer, proven optimal.

    With no limit given, the fastest plan whose predicted error is at most that of uniform w8a8.

    Example: hwsim plan --target edge_gpu --model vit_b --max-latency 4ms
    """  # fmt: skip
    if context.invoked_subcommand is not None:
        return
    for value, flag, example in ((target, "--target", "edge_gpu"), (model, "--model", "vit_b")):
        if not value:
            raise UserError(f"{flag} is missing; for example {flag} {example}")
    if objective not in (None, "error", "latency", "energy"):
        raise UserError(f"--objective: {objective!r} is not one of error, latency, energy")
    if max_error is not None and not max_error > 0:
        raise UserError(f"--max-error: {max_error} must be greater than 0")
    request = PlanRequest(
        target=target,
        model=model,
        output_dir=output_dir or Path("out") / f"{_stem(model)}-{_stem(target)}",
        weights=None if weights is None else console.existing_file(weights, "--weights"),
        calibration_data=calibration_data,
        widths=Widths.parse(bits),
        limits=Limits(
            latency=_limit(max_latency, "time", "--max-latency"),
            bops=_limit(max_bops, "count", "--max-bops"),
            weight_memory=_limit(max_weight_memory, "bytes", "--max-weight-memory"),
            activation_memory=_limit(max_activation_memory, "bytes", "--max-activation-memory"),
            energy=_limit(max_energy, "energy", "--max-energy"),
            error=max_error,
        ),
        objective=objective,  # pyright: ignore[reportArgumentType]  # checked above
        pins=tuple(pin or ()),
        forbids=tuple(forbid or ()),
        batch=batch,
        sequence=sequence,
        time_limit=parse_quantity(time_limit, "time", "--time-limit"),
        seed=seed,
        workers=workers,
        pareto=pareto,
        strict=strict,
        resume=resume,
        command=shlex.join(["hwsim", *sys.argv[1:]]),
    )
    if dry_run:
        _print_dry_run(request, json)
        return
    _run(request, json)


def _stem(text: str) -> str:
    name = Path(text.partition(":")[2] or text).name
    for suffix in (".yaml", ".yml", ".py", ".pt2"):
        name = name.removesuffix(suffix)
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name) or "model"


def _run(request: PlanRequest, json: bool) -> None:
    from hwsim.cli.progress import stage_progress
    from hwsim.stages.plan import make_plan

    with stage_progress() as progress:
        result = make_plan(request, progress)
    if json:
        console.print_json(result.report.model_dump(mode="json"))
    else:
        from hwsim.report.terminal import print_report

        print_report(result.report, console.out(), result.files)
    if result.interrupted:
        raise typer.Exit(130)
    if request.strict:
        broken = result.violations()
        if broken:
            raise ViolationError("--strict: " + "; ".join(broken))


def _print_dry_run(request: PlanRequest, json: bool) -> None:
    from hwsim.stages.plan import preview

    facts = preview(request)
    if json:
        console.print_json(facts)
        return
    for name, value in facts.items():
        typer.echo(f"{name}: {value}")
