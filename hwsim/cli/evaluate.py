"""``hwsim evaluate``: accuracy of a quantized or float model, and how far it is from float."""

from pathlib import Path
from typing import Annotated

import typer

from hwsim.cli import complete, console
from hwsim.stages.evaluate import EvaluateRequest, Evaluation, Progress, run_evaluate


def evaluate(
    subject: Annotated[
        str,
        typer.Argument(
            autocompletion=complete.models,
            help="Directory of hwsim quantize, or the name of a float model.",
        ),
    ],
    data: Annotated[str, typer.Option(help="Folder or .zip of images, .npz, .txt, or FILE.py:FUNCTION.")],
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Use only N samples: the first, or some of every class where they stand sorted by class.",
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Float weights, to load or to compare with; default: where they were.")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="For text: tokenizer.json or its folder.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Samples per run.")] = None,
    sequence: Annotated[
        int | None, typer.Option(min=1, help="Tokens per sample of a language model.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of random float weights.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure top-1/5 or perplexity, and KL and cosine against the float model, in integer arithmetic.

    Example: hwsim evaluate out/quantized --data val.zip --limit 500
    """
    request = EvaluateRequest(
        subject=subject,
        data=data,
        limit=limit,
        weights=None if weights is None else console.existing_file(weights, "--weights"),
        tokenizer=tokenizer,
        batch=batch,
        sequence=sequence,
        seed=seed,
    )
    result = run_evaluate(request, _progress() if console.shows_progress() else None)
    if json:
        console.print_json(result.document())
    else:
        print_evaluation(result)


def _progress() -> Progress:
    log = console.log()
    return lambda done, total: log.print(f"{done}/{total}", end="\r")


def print_evaluation(result: Evaluation) -> None:
    """A table with the float model beside the quantized one."""
    from rich.table import Table

    from hwsim.report.notebook import METRICS

    out = console.out()
    out.print(f"{result.model} on {result.data.count} samples of {result.data.source}")
    table = Table()
    table.add_column("")
    table.add_column("measured", justify="right")
    if result.reference is not None:
        table.add_column("float", justify="right")
    for name, value in result.metrics.items():
        title, form = METRICS[name]
        cells = [title, format(value, form)]
        if result.reference is not None:
            cells.append(format(result.reference[name], form) if name in result.reference else "")
        table.add_row(*cells)
    out.print(table)
    out.print(f"data: {result.data.kind}, sha256 {result.data.sha256[:16]}…, {result.data.preprocessing}")
    for remark in result.remarks:
        out.print(f"note: {remark}")
