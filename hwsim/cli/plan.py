"""``hwsim plan``: from a model and a device to a proven plan and a report."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hwsim.cli import complete, console
from hwsim.errors import ViolationError
from hwsim.stages.request import PlanRequest, plan_request
from hwsim.stages.search import search_flags

app = typer.Typer(
    invoke_without_command=True,
)


@app.callback()
def plan(
    context: typer.Context,
    target: Annotated[
        str,
        typer.Option(
            "--target", "-t", autocompletion=complete.targets, help="Device: a shipped name or a YAML file."
        ),
    ] = "",
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            autocompletion=complete.models,
            help="Short name, timm:NAME, hf:NAME, FILE.pt2 or FILE.py:factory.",
        ),
    ] = "",
    weights: Annotated[
        Path | None, typer.Option(help="Weights: .safetensors, or .pth without pickled code.")
    ] = None,
    calibration_data: Annotated[
        str | None, typer.Option(help="Folder, zip or .npz with samples for the error model.")
    ] = None,
    measured: Annotated[
        int,
        typer.Option(
            min=0,
            help="Quantize each layer alone on this many of the samples and put the error model right by it; "
            "half a forward pass for each layer, width and sample.",
        ),
    ] = 0,
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
        typer.Option(
            help="error, latency or energy; two with a comma: the second decides among the best of the first. "
            "Default: error under limits; latency without."
        ),
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
    alternatives: Annotated[int, typer.Option(min=0, max=20, help="Also prove this many other plans.")] = 0,
    explain: Annotated[bool, typer.Option(help="Find what 1 % more of each limit would buy.")] = False,
    warm_start: Annotated[Path | None, typer.Option(help="A former plan.json to start from.")] = None,
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
    Example: hwsim plan --target my_device.yaml --model my_net.py:make --weights my_net.safetensors
    Example: hwsim plan --target mobile_cpu --model resnet18 --max-energy 20mJ --pareto 8 -o out/phone
    Example: hwsim plan --config out/vit_b-edge_gpu/config.yaml --max-latency 3ms -o out/faster
    """  # fmt: skip
    if context.invoked_subcommand is not None:
        return
    request = plan_request(
        target=target,
        model=model,
        output_dir=output_dir,
        weights=None if weights is None else console.existing_file(weights, "--weights"),
        calibration_data=calibration_data,
        measured=measured,
        bits=bits,
        batch=batch,
        sequence=sequence,
        pareto=pareto,
        warm_start=warm_start,
        strict=strict,
        resume=resume,
        command=shlex.join(["hwsim", *sys.argv[1:]]),
        **search_flags(context.params),
    )
    if dry_run:
        _print_dry_run(request, json)
        return
    _run(request, {**console.flags(context), "output_dir": request.output_dir}, json)


def _run(request: PlanRequest, flags: dict[str, Any], json: bool) -> None:
    from hwsim import config
    from hwsim.cli.progress import stage_progress
    from hwsim.stages.plan import make_plan

    directory = request.output_dir
    try:
        with config.kept(directory, "plan", flags), stage_progress() as progress:
            result = make_plan(request, progress)
    except KeyboardInterrupt:
        console.log().print(
            f"go on with: hwsim plan --config {directory / config.NAME} --resume", soft_wrap=True
        )
        raise
    if json:
        console.print_json(result.report.model_dump(mode="json"))
    else:
        from hwsim.report.terminal import print_report

        print_report(result.report, console.out(markup=True), result.files)
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
    from hwsim.units import format_quantity

    memory = format_quantity(facts["peak_memory_bytes"], "bytes")
    for line in (
        f"model: {facts['model']}",
        f"target: {facts['target']}",
        f"work: {facts['products']} products, {format_quantity(facts['macs'], 'count')} multiply-accumulates",
        f"schemes offered: {facts['schemes_offered']}",
        f"estimate: about {facts['expected_seconds']:.0f} s on two x86 cores, {memory} of memory at most",
        f"files: {', '.join(facts['files'])}",
    ):
        typer.echo(line)
