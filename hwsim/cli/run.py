"""``hwsim run``: execute a compiled artifact on an image or on arrays."""

from pathlib import Path
from typing import Annotated

import typer

from hwsim.cli import console
from hwsim.stages.run import run_artifact


def run(
    artifact: Annotated[Path, typer.Argument(help="Folder that hwsim compile wrote.")],
    input_: Annotated[Path, typer.Option("--input", "-i", help="An image, or an .npz with named arrays.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the outputs as .npz.")] = None,
    repeat: Annotated[
        int, typer.Option(min=0, help="Also measure: run this often and print the median.")
    ] = 0,
    top: Annotated[int, typer.Option(min=1, help="How many of the largest outputs to print.")] = 5,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run an artifact once and print the largest outputs.

    Example: hwsim run art/ --input image.jpg
    """
    found = run_artifact(artifact, input_, output=output, repeat=repeat, top=top)
    if json:
        console.print_json(found.document())
        return
    for index, value in found.top:
        typer.echo(f"{index:>6}  {value:.6g}")
    if found.median_seconds is not None:
        typer.echo(f"median of {repeat} runs: {1e3 * found.median_seconds:.3f} ms")
    if found.illustrative:
        console.log().print("random weights: the values are illustrative")
