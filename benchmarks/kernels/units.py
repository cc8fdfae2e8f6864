"""Parallel units on this host: row split, term split and telescoped predictors on two cores against one.

    python benchmarks/kernels/units.py [--model deit_t] [--rounds 15] [--output reports/kernels/units.md]

Each form is compiled once for two cores; the same artifact is then timed on both cores and with everything on
the calling thread, rounds interleaved, medians of wall time. Also the price of order 2: one core, w4a8 with half
and with all of the rows in the second order, against w4a8.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from timing import interleaved, table

from hwsim.compile.artifact import write_artifact
from hwsim.compile.isa import host_isa
from hwsim.compile.lower_ensemble import lower_model
from hwsim.model.load import load_model
from hwsim.runtime import load
from hwsim.stages.quantize import uniform_assignment
from quant.ensemble import with_ensemble
from quant.observe import observe_ranges
from quant.qmodel import quantize
from quant.scheme import Scheme

CASES = (
    ("row split", "w4a8.o2", "rows"),
    ("term split", "w4a8.o2", "terms"),
    ("two predictors", "w4a8.o3.e2", "rows"),
)
ORDERS = ("w4a8", "w4a8.o2.g50", "w4a8.o2")


def artifact(model, inputs, scheme, way, units, folder):
    """A loaded artifact with its inputs set."""
    assignment = uniform_assignment(model.graph, Scheme.parse(scheme))
    ranges = observe_ranges(model.module, assignment, [inputs])
    quantized = with_ensemble(quantize(model.module, assignment, ranges=ranges))
    ways = dict.fromkeys(quantized.layers, way) if way else None
    program = lower_model(quantized, host_isa(), units=units, ways=ways)
    write_artifact(program, host_isa(), folder, threads=units)
    runner = load(folder)
    runner.set_inputs(*[x.numpy() for x in inputs])
    return runner


def on_one_core(runner):
    """The same artifact on the calling thread."""

    def call():
        with runner.on_one_core():
            runner.run()

    return call


def main():
    """Measure, print, and write the tables."""
    import time

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="deit_t")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = load_model(options.model)
    inputs = tuple(torch.randn_like(x) if x.is_floating_point() else x for x in model.example_inputs)
    with tempfile.TemporaryDirectory() as scratch:
        calls = {}
        for index, (name, scheme, way) in enumerate(CASES):
            runner = artifact(model, inputs, scheme, way, 2, Path(scratch) / f"u{index}")
            calls[f"{name} ({scheme}), two"], calls[f"{name} ({scheme}), one"] = (
                runner.run,
                on_one_core(runner),
            )
        inner = dict.fromkeys(calls, 1)
        times = interleaved(calls, options.rounds, time.perf_counter, warmup=2, inner=inner)
        orders = {s: artifact(model, inputs, s, None, 1, Path(scratch) / s).run for s in ORDERS}
        prices = interleaved(orders, options.rounds, time.perf_counter, 2, dict.fromkeys(orders, 1))
    rows = []
    for name, scheme, _ in CASES:
        two, one = (times[f"{name} ({scheme}), {n}"] for n in ("two", "one"))
        rows.append([name, scheme, f"{1e3 * one:.2f}", f"{1e3 * two:.2f}", f"{one / two:.2f}"])
    text = "# Parallel units on the host\n\nCommand: `python benchmarks/kernels/units.py "
    text += (
        f"--model {options.model} --rounds {options.rounds}`; two-core x86-64 with AVX-512 VNNI, batch 1.\n\n"
    )
    text += table(["form", "scheme", "one core ms", "two cores ms", "faster"], rows)
    base = prices[ORDERS[0]]
    text += "\nPrice of order 2 on one core, whole model:\n\n"
    text += table(
        ["scheme", "ms", "of order 1"], [[s, f"{1e3 * t:.2f}", f"{t / base:.2f}"] for s, t in prices.items()]
    )
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
