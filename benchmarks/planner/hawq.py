"""HAWQ-V3's 18 published planning problems as tables: 4 or 8 bits per layer of ResNet-18/50 on a T4.

The loss of a layer at b bits is trace · |ΔW_b|², as in HAWQ-V3's notebook; a limit is a share of the way from
all-4-bit to all-8-bit in size, bit operations or measured latency. Latency counts in units of 10^-8 ms, the
resolution of the published table. The first convolution of a stage and the projection beside it read the same
tensor and must agree, as in the published answers. Layers outside the choice are left out, as they are there.
"""

import csv
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from planner.request import Limits, Request
from planner.tables import Agreement, LayerOption, LayerTable, Tables

CLOCK_HZ = 1e11
BITS = (4, 8)
SAME_INPUT = {
    "resnet18": ((4, 6), (9, 11), (14, 16)),
    "resnet50": ((0, 3), (10, 13), (23, 26), (42, 45)),
}


@dataclass(frozen=True)
class HawqProblem:
    """One published problem and its known answer."""

    name: str
    tables: Tables
    request: Request
    best: float
    """Error of the known optimum: its published objective plus the loss of all layers at 4 bits."""
    bits: str


def read_layers(path: Path, model: str) -> list[dict[str, str]]:
    """Rows of one model."""
    with path.open() as stream:
        return [row for row in csv.DictReader(stream) if row["model"] == model]


def hawq_tables(rows: list[dict[str, str]], model: str) -> Tables:
    """The published layer costs as tables."""
    layers = []
    for row in rows:
        options = []
        for bits in BITS:
            bops = Fraction(row["MACs_M"]) * 10**6 * bits * bits
            options.append(
                LayerOption(
                    scheme=f"w{bits}a{bits}",
                    weight_bits=bits,
                    act_bits=bits,
                    error=float(row["hutchinson_trace"]) * float(row[f"dw{bits}_sq"]),
                    cycles=int(Fraction(row[f"latency_int{bits}_ms"]) * 10**8),
                    bops=int(bops),
                    weight_bytes=int(Fraction(row["params_M"]) * 2**20 * bits / 8),
                )
            )
        layers.append(LayerTable(name=f"layer{row['i']}", kind="conv2d", options=tuple(options)))
    agreements = tuple(
        Agreement(name=f"input of layer{a}", layers=(f"layer{a}", f"layer{b}"), on=("act_bits",))
        for a, b in SAME_INPUT[model]
    )
    return Tables(model=model, target="T4", clock_hz=CLOCK_HZ, layers=tuple(layers), agreements=agreements)


def limit_between(tables: Tables, quantity: str, share: float) -> Limits:
    """The published limit: a share of the way from all-4-bit to all-8-bit."""
    field = {"latency": "cycles", "bops": "bops", "size": "weight_bytes"}[quantity]
    least = sum(min(getattr(o, field) for o in layer.options) for layer in tables.layers)
    most = sum(max(getattr(o, field) for o in layer.options) for layer in tables.layers)
    value = least + Fraction(str(share)) * (most - least)
    if quantity == "latency":
        return Limits(latency=float(value / Fraction(CLOCK_HZ)))
    if quantity == "bops":
        return Limits(bops=float(value))
    return Limits(weight_memory=float(value))


def hawq_problems(folder: Path) -> list[HawqProblem]:
    """All 18 problems with their known optima."""
    found = []
    with (folder / "hawq_ilp_optima.csv").open() as stream:
        for row in csv.DictReader(stream):
            tables = hawq_tables(read_layers(folder / "hawq_t4_layers.csv", row["model"]), row["model"])
            limits = limit_between(tables, row["constraint"], float(row["fraction"]))
            name = f"{row['model']}-{row['constraint']}-{row['fraction']}"
            at_four = sum(layer.options[0].error for layer in tables.layers)
            best = at_four + float(row["objective"])
            found.append(HawqProblem(name, tables, Request(limits=limits), best, row["bits"]))
    return found
