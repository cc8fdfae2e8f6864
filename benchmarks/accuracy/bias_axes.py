"""Which constant, of whose error: the axes and paths of Bias Compensation on vision transformers.

    python benchmarks/accuracy/bias_axes.py

ViT-Tiny w4a4 (round to nearest, and RepQuant) and the CIFAR-10 ViT w2a4, calibration images of one seed, no referee.
Writes reports/accuracy/bias_axes.md after every row.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import datasets
from cells import Store
from report import write_table
from subjects import SUBJECTS

from quant.pipeline import apply_recipe, uniform_assignment
from quant.recipe import Recipe
from quant.scheme import Scheme

REPQUANT = ["repquant", "logsoftmax"]
BASES = [("vit_tiny", "w4a4", ["mse"]), ("cifar10_vit", "w2a4", ["mse"]), ("vit_tiny", "w4a4", REPQUANT)]
BIASES = [
    None,
    ("channel", "quantized"),
    ("groups", "quantized"),
    ("groups", "local"),
    ("position", "quantized"),
    ("position", "float"),
]


def main() -> None:
    """Every base with every bias."""
    parser = argparse.ArgumentParser(description="axes and paths of bias compensation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as place:
        loaded = {n: SUBJECTS[n].load(Store(Path(place) / "cells")) for n in ("vit_tiny", "cifar10_vit")}
    for network, text, steps in BASES:
        subject, scheme = loaded[network], Scheme.parse(text)
        assignment = uniform_assignment(subject.products(scheme), scheme, first_last_bits=8)
        for bias in BIASES:
            settings = {} if bias is None else {"bc": {"axes": bias[0], "path": bias[1]}}
            recipe = Recipe.parse({"steps": steps if bias is None else [*steps, "bc"], **settings})
            made = apply_recipe(subject.module, assignment, subject.calibration(args.seed), recipe)
            logits = torch.cat([made.logits(batch) for batch in subject.batches])
            top = datasets.top1(logits, subject.labels)
            kl = datasets.kl_to_float(subject.exact, logits)
            rows.append([network, text, "+".join(steps), *(bias or ("none", "")), f"{kl:.3f}", f"{top:.1f}"])
            print(*rows[-1], flush=True)
            write_table(
                Path("reports/accuracy/bias_axes.md"),
                "Axes and paths of Bias Compensation",
                [
                    "Command: `python benchmarks/accuracy/bias_axes.py`. Weights and images of `../shared/data`, "
                    f"calibration images of seed {args.seed} (ViT-Tiny 32, CIFAR-10 ViT 128), evaluation images as in "
                    "the table of methods; divergence in nats. First and last layer at 8 bits.",
                    "Axes: one bias a channel; one a channel for each group of positions; one an output element. Path: "
                    "the error that came together on the quantized path; what the layer itself adds; what it adds on "
                    "float inputs (the authors' form, with the position axes).",
                ],
                ["network", "scheme", "base", "axes", "path", "KL to float", "top-1 %"],
                rows,
            )


if __name__ == "__main__":
    main()
