"""Does an allocation of expansion terms that the planner proves optimal beat the same share everywhere?

    python benchmarks/pipe_allocation.py [--images 128] [--full 16] [--shared ../shared]

ViT-Tiny and MobileNetV2 with trained weights. Every weight has 4 bits and order 1; a budget of bit operations
above that buys further terms. *Uniform*: order 2 on the same share of the rows of every layer, ranked by their
residual (REx). *Solver, 4 bits*: for each layer the planner chooses order 1 to 3, shares, rows or columns, a binary
last term; *any width* may also take native weights of 2 to 8 bits. Predicted losses are `quant.profile`'s with
Fisher information of 32 calibration images. *Native* is one wider weight of equal bit operations, which only a
device with such a width can run. Writes reports/pipe/allocation.md and .json.
"""

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from hwsim.data.dataset import Batch, InputForm
from hwsim.data.open import open_data
from hwsim.model.load import LoadedModel, load_model
from planner.request import Limits, Request
from planner.solve import solve
from planner.tables import LayerOption, LayerTable, Tables
from quant.activation import ActRanges
from quant.evaluate_metrics import Metrics
from quant.expansion import make_terms
from quant.observe import observe_ranges
from quant.profile import profile_layer
from quant.qmodel import QuantizeOptions, quantize
from quant.scheme import Scheme
from quant.sensitivity import Sensitivity, measure_sensitivity
from quant.terms import weight_of

ROOT = Path(__file__).resolve().parents[1]
BATCH = 8
CALIBRATION = 32
MODELS = {
    "vit_t": "vit_tiny_patch16_224",
    "timm:mobilenetv2_100[pad_type=same]": "mobilenetv2_100_tfslim",
}
# Share of the rows in order 2 everywhere -> bits of the native weight with the same bit operations.
BUDGETS = {25: 5, 50: 6}
ORDERS = [
    "",
    ".o2.g25",
    ".o2.g50",
    ".o2.g75",
    ".o2",
    ".o3.g50-25",
    ".o3.g50",
    ".o3.g100-25",
    ".o3.g100-50",
    ".o3",
]
BINARY = [".o2.b1", ".o2.g25.b1", ".o2.g50.b1", ".o3.g25.b1", ".o3.g50.b1", ".o3.b1"]
COLUMNS = [".o2.c5", ".o2.c10", ".o2.c25", ".o2.c50", ".o2.c75"]
FOUR_BITS = [f"w4a8{part}" for part in ORDERS + BINARY]
ANY_WIDTH = FOUR_BITS + [f"w{bits}a8" for bits in (2, 3, 5, 6, 7, 8)] + ["w2a8.o2", "w3a8.o2", "w5a8.o2"]


@dataclass(frozen=True)
class Line:
    """One assignment, measured."""

    model: str
    budget: float
    way: str
    bops: float
    weights_only: dict[str, float]
    full: dict[str, float]
    schemes: dict[str, str]


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, what calibration says about it, and the images it is measured on."""

    model: LoadedModel
    sensitivity: Sensitivity
    ranges: ActRanges
    images: list[Batch]
    reference: list[Tensor]

    def moments(self, name: str) -> Tensor:
        """Second moments of the input channels of a layer."""
        return torch.from_numpy(self.sensitivity.layers[name].moments)


def subject(spec: str, weights: str, shared: Path, count: int) -> Subject:
    """Load, calibrate, run the float model."""
    model = load_model(spec, weights=shared / "data/models" / f"{weights}.safetensors", batch=BATCH)
    form = InputForm(model.example_inputs, model.data_config)
    images = shared / "data/images"
    calibration = [
        batch.inputs
        for batch in open_data(str(images / "imagenet_calib_1000.zip"), form, limit=CALIBRATION).batches(
            BATCH
        )
    ]
    every_8_bits = dict.fromkeys((p.name for p in model.graph.products()), Scheme(8, 8))
    ranges = observe_ranges(model.module, every_8_bits, calibration, method="mse")
    sensitivity = measure_sensitivity(model.module, calibration, act_bits=(8,), draws=2)
    data = list(open_data(str(images / "imagenet_val_a650.zip"), form, limit=count).batches(BATCH))
    with torch.no_grad():
        reference = [model.module(*batch.inputs)[0][: batch.valid] for batch in data]
    return Subject(model, sensitivity, ranges, data, reference)


def planner_tables(of: Subject, offered: list[str]) -> Tables:
    """Loss and bit operations of every option of every layer with weights."""
    layers: list[LayerTable] = []
    state = of.model.module.state_dict()
    for layer in of.model.graph.products():
        if layer.weight is None:
            continue
        found = of.sensitivity.layers[layer.name]
        columns = [] if layer.groups > 1 else [f"w4a8{part}" for part in COLUMNS]
        profiled = profile_layer(
            state[layer.weight].numpy(),
            [Scheme.parse(text) for text in offered + columns],
            macs=layer.macs,
            groups=layer.groups,
            column_moments=found.moments if layer.groups == 1 else None,
            squared_gradient=found.squared_gradient,
        )
        options = tuple(
            LayerOption(
                scheme=str(o.scheme), weight_bits=o.scheme.weight_bits, act_bits=8, order=o.scheme.order,
                kept=o.scheme.kept,
                error=o.loss or 0.0, cycles=1, bops=round(o.bops),
            )
            for o in profiled
        )  # fmt: skip
        layers.append(LayerTable(name=layer.name, kind=layer.kind, options=options, macs=layer.macs))
    return Tables(layers=tuple(layers))


def expanded(of: Subject, schemes: Mapping[str, Scheme]) -> dict[str, Tensor]:
    """Quantized weights by layer."""
    state = of.model.module.state_dict()
    found: dict[str, Tensor] = {}
    for layer in of.model.graph.products():
        if layer.weight is not None:
            weight = state[layer.weight].detach()
            moments = of.moments(layer.name) if layer.groups == 1 else None
            terms = make_terms(layer.name, weight, schemes[layer.name], moments)
            found[layer.name] = weight_of(terms, (len(weight), weight[0].numel())).reshape(weight.shape)
    return found


def measure(of: Subject, module: torch.nn.Module, count: int) -> dict[str, float]:
    """Figures of a module on the first `count` images."""
    metrics, seen = Metrics(), 0
    with torch.no_grad():
        for batch, reference in zip(of.images, of.reference, strict=True):
            if seen >= count:
                break
            labels = None if batch.labels is None else batch.labels[: batch.valid]
            metrics.update(module(*batch.inputs)[0][: batch.valid], labels, reference)
            seen += batch.valid
    return metrics.result()


def weights_only(of: Subject, schemes: Mapping[str, Scheme], count: int) -> dict[str, float]:
    """Figures with quantized weights and float activations."""
    parameters = dict(of.model.module.named_parameters())
    names = {layer.name: layer.weight for layer in of.model.graph.products() if layer.weight is not None}
    quantized = expanded(of, schemes)
    stored = {name: parameters[path].detach().clone() for name, path in names.items()}
    with torch.no_grad():
        for name, path in names.items():
            parameters[path].copy_(quantized[name])
        try:
            return measure(of, of.model.module, count)
        finally:
            for name, path in names.items():
                parameters[path].copy_(stored[name])


def full(of: Subject, schemes: Mapping[str, Scheme], count: int) -> dict[str, float]:
    """Figures of the quantized model: weights, and activations in 8 bits (per token where that exists)."""
    moments = {layer.name: of.moments(layer.name) for layer in of.model.graph.products() if layer.groups == 1}
    every = {p.name: schemes.get(p.name, Scheme(8, 8)) for p in of.model.graph.products()}
    options = QuantizeOptions(act_kind="dynamic")
    made = quantize(of.model.module, every, ranges=of.ranges, moments=moments, options=options)
    return measure(of, made.fake(), count)


def compare(spec: str, of: Subject, images: int, few: int) -> list[Line]:
    """Uniform, solver and native at every budget."""
    ways = {
        "solver, 4 bits": planner_tables(of, FOUR_BITS),
        "solver, any width": planner_tables(of, ANY_WIDTH),
    }
    macs = {layer.name: layer.macs for layer in ways["solver, 4 bits"].layers}

    def line(share: int, way: str, schemes: dict[str, Scheme]) -> Line:
        bops = sum(macs[name] * scheme.bits_per_weight * 8 for name, scheme in schemes.items())
        named = {name: str(scheme) for name, scheme in schemes.items()}
        alone, whole = weights_only(of, schemes, images), full(of, schemes, few)
        print(spec, share, way, f"{bops:.3e} KL {alone['kl']:.4f} {whole['kl']:.4f}", flush=True)
        return Line(spec, 1 + share / 100, way, bops, alone, whole, named)

    lines: list[Line] = []
    for share, native in BUDGETS.items():
        uniform = dict.fromkeys(macs, Scheme.parse(f"w4a8.o2.g{share}"))
        lines.append(line(share, "uniform", uniform))
        limits = Limits(bops=lines[-1].bops)
        for way, tables in ways.items():
            plan = solve(tables, Request(objective=("error",), limits=limits))
            chosen = {name: Scheme.parse(text) for name, text in plan.assignment.items()}
            lines.append(line(share, way, chosen))
        lines.append(line(share, f"native w{native}a8", dict.fromkeys(macs, Scheme(native, 8))))
    return lines


def markdown(lines: list[Line], images: int, few: int) -> str:
    """The report."""
    text = [
        "# Terms where they pay: solver against one share everywhere",
        "",
        f"`python benchmarks/pipe_allocation.py --images {images} --full {few}`: trained weights and labelled "
        "ImageNet validation images of `../shared/data` (centre crop). Weights of 4 bits, order 1 everywhere, plus "
        "the bit operations of order 2 on a share of all rows. KL(float ‖ quantized) in nats per image: *weights* "
        f"with float activations, {images} images; *all* with activations of 8 bits too (per token in linear "
        f"layers, least-squares range elsewhere), {few} images. Gain is uniform over this line. *native* is the "
        f"wider weight of equal bit operations. Losses come from {CALIBRATION} images of the calibration set.",
        "",
        "| model | cost | way | BOPs | KL weights | gain | top-1 weights | KL all | gain |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    base: dict[tuple[str, float], Line] = {(r.model, r.budget): r for r in lines if r.way == "uniform"}
    for r in lines:
        uniform = base[r.model, r.budget]
        gains = [
            uniform.weights_only["kl"] / r.weights_only["kl"],
            uniform.full["kl"] / r.full["kl"],
        ]
        text.append(
            f"| {MODELS[r.model]} | {r.budget:.2f} | {r.way} | {r.bops:.3e} | {r.weights_only['kl']:.4f} | "
            f"{gains[0]:.1f}× | {r.weights_only['top1']:.2f} | {r.full['kl']:.4f} | {gains[1]:.1f}× |"
        )
    return "\n".join([*text, ""])


def main() -> None:
    """Measure both networks and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=128, help="with float activations")
    parser.add_argument("--full", type=int, default=16, help="with activations of 8 bits")
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument(
        "--shared", type=Path, default=Path(os.environ.get("HWSIM_SHARED", ROOT.parent / "shared"))
    )
    parser.add_argument("--output", type=Path, default=ROOT / "reports" / "pipe")
    arguments = parser.parse_args()
    lines: list[Line] = []
    for spec in arguments.models:
        of = subject(spec, MODELS[spec], arguments.shared, arguments.images)
        lines += compare(spec, of, arguments.images, arguments.full)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "allocation.md").write_text(markdown(lines, arguments.images, arguments.full))
    document = json.dumps([asdict(line) for line in lines], indent=1)
    (arguments.output / "allocation.json").write_text(document + "\n")


if __name__ == "__main__":
    main()
