"""``hwsim run``: execute a compiled artifact on an image or on arrays; imports neither torch nor the compiler."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hwsim.cli import console
from hwsim.errors import UserError

_IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"}


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
    import numpy as np

    from hwsim.runtime import load

    model = load(artifact)
    model.set_inputs(**_read(console.existing_file(input_, "--input"), model))
    model.run()
    outputs = model.get_outputs()
    if output is not None:
        np.savez(output, **outputs)  # pyright: ignore[reportArgumentType]
    first = outputs[model.outputs[0].name]
    scores = first.reshape(-1, first.shape[-1])[-1]
    order = np.argsort(-scores, kind="stable")[:top]
    document: dict[str, Any] = {
        "model": model.manifest.get("model"),
        "illustrative": model.manifest.get("illustrative"),
        "outputs": {p.name: list(p.shape) for p in model.outputs},
        "top": [{"index": int(i), "value": float(scores[i])} for i in order],
    }
    if repeat:
        document["median_ms"] = _median_ms(model, repeat)
    if json:
        console.print_json(document)
        return
    for item in document["top"]:
        typer.echo(f"{item['index']:>6}  {item['value']:.6g}")
    if repeat:
        typer.echo(f"median of {repeat} runs: {document['median_ms']:.3f} ms")
    if document["illustrative"]:
        console.log().print("random weights: the values are illustrative")


def _read(path: Path, model: Any) -> dict[str, Any]:
    """Input arrays by name."""
    import numpy as np

    if path.suffix.lower() in _IMAGES:
        from hwsim.runtime.image import read_image

        port = model.inputs[0]
        return {port.name: read_image(path, port.shape, model.manifest.get("preprocess", {}))}
    if path.suffix != ".npz":
        raise UserError(f"--input {path}: pass an image or an .npz with {[p.name for p in model.inputs]}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = [p.name for p in model.inputs]
            wanted = names if all(n in arrays.files for n in names) else arrays.files
            return {name: arrays[name] for name in wanted}
    except (ValueError, OSError) as error:
        raise UserError(f"--input {path}: not a readable .npz ({error})") from error


def _median_ms(model: Any, repeat: int) -> float:
    from statistics import median
    from time import perf_counter

    times: list[float] = []
    for _ in range(repeat):
        start = perf_counter()
        model.run()
        times.append(1e3 * (perf_counter() - start))
    return median(times)
