"""Fidelity to ZigZag 3.9.1: its shipped TPU-like accelerator as a machine of ours, layer by layer.

32 × 32 multipliers with input channels on the rows and output channels on the columns (the kernel window is not
unrolled), 128 bytes of weights a multiplier, a 2 MB SRAM for inputs and outputs, one DRAM port of 64 bits a cycle,
layers run alone. The descriptor is this file's ``tpu_like``; nothing is fitted.

    python benchmarks/simulator/zigzag.py
"""

import csv
import os
import statistics
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.simulator.tables import markdown, median_seconds, write  # noqa: E402
from hwsim.simulate.cost import layer_costs  # noqa: E402
from hwsim.simulate.machine import Engine, Level, Machine  # noqa: E402
from hwsim.simulate.pricing import product_shape  # noqa: E402
from quant.scheme import Scheme  # noqa: E402
from tests.hwsim.simulate.fake_graph import FakeLayer, network  # noqa: E402

SHARED = Path(os.environ.get("HWSIM_SHARED", ROOT.parent / "shared"))
PRODUCTS = frozenset({"linear", "conv2d", "depthwise", "matmul"})
W8A8 = Scheme.parse("w8a8")
CLOSE = 0.10


def tpu_like() -> Machine:
    """The accelerator with the numbers of the file inputs/hardware/tpu_like.yaml."""
    engine = Engine(
        "array",
        "bit_composable",
        PRODUCTS,
        {(8, 8): 1024.0},
        32,
        32,
        unrolls_window=False,
        mac_pj={(8, 8): 0.04},
    )
    levels = (
        Level("rf_128B", 128 * 1024, 1024.0, True, 0.095, True, False),
        Level("sram_2MB", 2**21, 256.0, True, 416.16 / 256, False, True),
        Level("dram", 1e10, 8.0, True, 700 / 8),
    )
    return Machine(
        "tpu_like",
        1e9,
        1,
        (engine,),
        levels,
        {"add": 1.0, "mul": 1.0, "other": 1.0},
        prefetch=False,
        dense_packing=True,
    )


def far_from_chip(layers: list[FakeLayer]) -> list[FakeLayer]:
    """Each layer alone, operands in DRAM before and after: a huge live tensor keeps them there."""
    ballast = FakeLayer("ballast", "other", m=10**8, n=100, inputs=("input:b",), input_shapes=((1,),))
    return [*layers, ballast]


def compare(model: str, name: str) -> list[tuple[str, float, float]]:
    """Layer, latency of ZigZag, ours."""
    reference = list(csv.DictReader((SHARED / "ref" / f"zigzag_{model}_{name}.csv").open()))
    layers = [alone(layer) for layer in network(model)]
    options = layer_costs(layers, [[W8A8]] * len(layers), tpu_like(), graph_layers=far_from_chip(layers))
    return [
        (row["layer"], float(row["latency_total2_plus_offload"]), min(option.cycles for option in found))
        for row, found in zip(reference, options, strict=True)
    ]


def alone(layer: FakeLayer) -> FakeLayer:
    """Fed by the network's input, so that nothing waits for a layer before."""
    return replace(layer, inputs=("input:x",))


def cause(layer: FakeLayer, theirs: float, ours: float) -> str:
    """One line for a layer that differs by more than 10 %."""
    touched = product_shape(layer)[1]
    port = (touched + layer.groups * layer.n * layer.k + layer.elements) / 8
    if port > theirs:
        return (
            f"its {theirs:,.0f} cycles are fewer than the {port:,.0f} that its one DRAM port of 8 bytes needs for the "
            "layer's bytes: it counts the first loads of inputs and weights as if each had a port"
        )
    if ours > theirs:
        return "the first inputs and the first weights share the port in ours; ZigZag takes the longer of the two"
    return "ZigZag stores more of the outputs after the last product"


def main() -> None:
    """Write reports/simulator/zigzag.md; fails below 90 % of the layers."""
    summary: list[list[object]] = []
    lines: list[str] = []
    details: list[list[object]] = []
    failed = False
    for path in sorted((SHARED / "ref").glob("zigzag_*_tpu_like.csv")):
        model = path.stem.split("_tpu")[0].removeprefix("zigzag_")
        rows = compare(model, "tpu_like")
        errors = [ours / theirs - 1 for _, theirs, ours in rows]
        close = sum(abs(error) <= CLOSE for error in errors)
        failed |= close < 0.9 * len(rows)
        layers = network(model)
        machine = tpu_like()
        seconds = median_seconds(lambda ls=layers, m=machine: layer_costs(ls, [[W8A8]] * len(ls), m))
        total = sum(ours for _, _, ours in rows) / sum(theirs for _, theirs, _ in rows) - 1
        summary.append(
            [
                model,
                len(rows),
                f"{100 * close / len(rows):.0f} %",
                f"{100 * statistics.median(map(abs, errors)):.1f} %",
                f"{100 * max(map(abs, errors)):.1f} %",
                f"{100 * total:+.1f} %",
                f"{1e3 * seconds:.1f}",
            ]
        )
        details += [
            [model, layer, f"{theirs:,.0f}", f"{ours:,.0f}", f"{100 * (ours / theirs - 1):+.1f} %"]
            for layer, theirs, ours in rows
        ]
        lines += [
            f"- {model} {layer} ({100 * (ours / theirs - 1):+.1f} %): {cause(shape, theirs, ours)}."
            for shape, (layer, theirs, ours) in zip(layers, rows, strict=True)
            if abs(ours / theirs - 1) > CLOSE
        ]
    headings = [
        "model",
        "layers",
        "within 10 %",
        "median difference",
        "largest",
        "whole network",
        "ms for the network",
    ]
    write(
        "zigzag.md",
        "python benchmarks/simulator/zigzag.py",
        "# ZigZag 3.9.1, TPU-like accelerator",
        markdown(headings, summary),
        "Layers that differ by more than 10 %:" if lines else "No layer differs by more than 10 %.",
        "\n".join(lines),
        markdown(["model", "layer", "ZigZag, cycles", "ours", "difference"], details),
    )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
