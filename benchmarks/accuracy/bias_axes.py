"""Which constant, of whose error, with which gain: axes, paths and gains of Bias Compensation.

    python benchmarks/accuracy/bias_axes.py

CIFAR-10 ResNet-20 and ViT w2a4, ViT-Tiny w4a4 (round to nearest, and RepQuant), calibration images of one seed.
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
BASES = [
    ("cifar10_resnet20", "w2a4", ["mse"]),
    ("cifar10_vit", "w2a4", ["mse"]),
    ("vit_tiny", "w4a4", ["mse"]),
    ("vit_tiny", "w4a4", REPQUANT),
]
BIASES = [
    None,
    {"axes": "position", "path": "float", "shrinkage": "none"},
    {"axes": "position", "path": "quantized"},
    {"axes": "channel", "path": "quantized"},
    {"axes": "groups", "path": "quantized"},
    {"axes": "groups", "path": "local"},
    {"axes": "groups", "path": "quantized", "gain": "channel"},
    {"axes": "groups", "path": "local", "gain": "channel"},
    {"axes": "groups", "path": "quantized", "gain": "layer"},
    {"axes": "groups", "path": "local", "gain": "layer"},
    {},
]
"""The first is the authors' form, the last the default, which chooses path and gain itself."""


def main() -> None:
    """Every base with every bias."""
    parser = argparse.ArgumentParser(description="axes and paths of bias compensation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as place:
        loaded = {
            n: SUBJECTS[n].load(Store(Path(place) / "cells"))
            for n in dict.fromkeys(base[0] for base in BASES)
        }
    for network, text, steps in BASES:
        subject, scheme = loaded[network], Scheme.parse(text)
        assignment = uniform_assignment(subject.products(scheme), scheme, first_last_bits=8)
        for bias in BIASES:
            if network == "cifar10_resnet20" and bias and bias.get("axes") == "channel":
                continue  # no tokens: the groups are the channels
            recipe = Recipe.parse({"steps": steps} if bias is None else {"steps": [*steps, "bc"], "bc": bias})
            made = apply_recipe(subject.module, assignment, subject.calibration(args.seed), recipe)
            logits = torch.cat([made.logits(batch) for batch in subject.batches])
            top = datasets.top1(logits, subject.labels)
            kl = datasets.kl_to_float(subject.exact, logits)
            rows.append([network, text, "+".join(steps), *_named(bias), f"{kl:.3f}", f"{top:.1f}"])
            print(*rows[-1], flush=True)
            write_table(
                Path("reports/accuracy/bias_axes.md"),
                "Axes and paths of Bias Compensation",
                [
                    "Command: `python benchmarks/accuracy/bias_axes.py`. Weights and images of `../shared/data`, "
                    f"calibration images of seed {args.seed} (ResNet-20 512, CIFAR-10 ViT 128, ViT-Tiny 32), no "
                    "referee, evaluation images as in the table of methods; divergence in nats. First and last layer "
                    "at 8 bits.",
                    "Axes: one bias a channel; one a channel for each group of positions; one an output element. Path: "
                    "the error that came together on the quantized path; what the layer itself adds; what it adds on "
                    "float inputs (with the position axes the authors' form). Gain: factors that restore the spread, "
                    "one a channel or one a layer. Auto chooses path and gain on the calibration images.",
                ],
                ["network", "scheme", "base", "axes", "path", "gain", "KL to float", "top-1 %"],
                rows,
            )


def _named(bias: dict[str, str] | None) -> tuple[str, str, str]:
    if bias is None:
        return "none", "", ""
    return bias.get("axes", "groups"), bias.get("path", "auto"), bias.get("gain", "none" if bias else "auto")


if __name__ == "__main__":
    main()
