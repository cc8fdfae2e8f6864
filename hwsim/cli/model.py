"""``hwsim model``: which networks are known by a short name, and what one of them consists of."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwsim.cli import complete, console
from hwsim.errors import UserError
from hwsim.model.sources import SHORT_NAMES
from hwsim.units import format_quantity

if TYPE_CHECKING:
    from hwsim.model.graph import Layer, LayerGraph
    from hwsim.model.load import LoadedModel

app = typer.Typer(
    no_args_is_help=True,
    help="Models: list the short names, show one layer by layer.\n\nExample: hwsim model show resnet18",
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(json: Json = False) -> None:
    """The short names and what each stands for.

    Example: hwsim model list
    """
    if json:
        console.print_json([{"name": name, "resolved": full} for name, full in SHORT_NAMES.items()])
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("stands for", no_wrap=True)
    for name, full in SHORT_NAMES.items():
        table.add_row(name, full)
    console.out().print(table)
    console.out().print(
        "\nAlso: timm:NAME, hf:NAME, hf:path/to/config.json, FILE.pt2, FILE.py:FUNCTION; builder arguments in "
        "brackets, e.g. timm:mobilenetv2_100[pad_type=same].",
        markup=False,
    )


@app.command()
def show(
    model: Annotated[
        str,
        typer.Argument(
            autocompletion=complete.models,
            help="Short name, timm:NAME, hf:NAME, FILE.pt2 or FILE.py:FUNCTION.",
        ),
    ],
    weights: Annotated[
        Path | None, typer.Option(help="Read these weights too (.safetensors or .pth); else shapes alone.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images or sequences per inference.")] = 1,
    sequence: Annotated[
        int | None, typer.Option(min=1, help="Tokens per sequence (language models).")
    ] = None,
    products: Annotated[bool, typer.Option("--products", help="List the matrix products only.")] = False,
    json: Json = False,
) -> None:
    """Every layer with shapes, multiply-accumulates and parameters, and the totals.

    Example: hwsim model show resnet18 --products
    """
    from hwsim.model.load import load_model

    if weights is not None:
        console.existing_file(weights, "--weights")
    loaded = load_model(
        model, weights=weights, device="cpu" if weights else "meta", batch=batch, sequence=sequence
    )
    if json:
        console.print_json({**loaded.graph.to_dict(), "totals": totals(loaded.graph), **_origin(loaded)})
        return
    layers = loaded.graph.products() if products else loaded.graph.layers
    if not layers:
        raise UserError(f"{model}: the network has no layers")
    _print(loaded, layers)


def totals(graph: "LayerGraph") -> dict[str, Any]:
    """MACs by kind of product, parameters, and the activations that must be alive at once."""
    from hwsim.model.live import live_ranges

    live = live_ranges(graph)
    attention = sum(layer.macs for layer in graph.products() if layer.kind == "matmul")
    return {
        "layers": len(graph.layers),
        "products": len(graph.products()),
        "macs": graph.total_macs,
        "macs_with_weights": graph.total_macs - attention,
        "macs_between_activations": attention,
        "parameters": graph.parameters,
        "vector_elements": sum(layer.elements for layer in graph.vector_work()),
        "peak_activation_elements": int(live.peak),
        "peak_activation_layer": live.peak_layer,
        "tied_weights": {weight: list(names) for weight, names in graph.tied_weights().items()},
    }


def _origin(loaded: "LoadedModel") -> dict[str, Any]:
    from dataclasses import asdict

    return {"asked": loaded.spec, "weights": asdict(loaded.weights)}


def _print(loaded: "LoadedModel", layers: "tuple[Layer, ...]") -> None:
    from rich.table import Table

    names = dict.fromkeys((loaded.spec, loaded.resolved))
    table = Table(box=None, pad_edge=False, title=" = ".join(names), title_justify="left")
    table.add_column("layer", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    table.add_column("inputs", no_wrap=True)
    table.add_column("output", no_wrap=True)
    for heading in ("batch x m x n x k", "MACs", "parameters"):
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in layers:
        table.add_row(
            layer.name,
            layer.kind
            if layer.is_product
            else f"{layer.kind} {layer.op}".replace(f"{layer.op} {layer.op}", layer.op),
            " ".join(_shape(shape) for shape in layer.input_shapes),
            _shape(layer.output_shape),
            _gemm(layer),
            format_quantity(layer.macs, "count") if layer.macs else "",
            f"{layer.params:,}" if layer.params else "",
        )
    console.out().print(table)
    _print_totals(totals(loaded.graph))


def _print_totals(found: dict[str, Any]) -> None:
    lines = [
        f"{found['products']} products, {found['layers'] - found['products']} other layers",
        f"{format_quantity(found['macs'], 'count', 4)} MACs: "
        f"{format_quantity(found['macs_with_weights'], 'count', 4)} with weights, "
        f"{_count(found['macs_between_activations'])} between activations (attention)",
        f"{found['parameters']:,} parameters",
        f"{found['vector_elements']:,} elements of vector work (norms, softmax, activations, additions, pools)",
        f"{found['peak_activation_elements']:,} activation elements alive at most "
        f"(at {found['peak_activation_layer']})",
    ]
    lines += [
        f"tied: {weight} is read by {', '.join(names)}" for weight, names in found["tied_weights"].items()
    ]
    console.out().print("\n" + "\n".join(lines), markup=False)


def _count(value: float) -> str:
    return format_quantity(value, "count", 4) if value else "0"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape) or "scalar"


def _gemm(layer: "Layer") -> str:
    if not layer.is_product:
        return ""
    copies = layer.batch * layer.groups
    return f"{copies} x {layer.m} x {layer.n} x {layer.k}"
