"""How long the methods take on real networks, against their targets. Wants a quiet machine.

    python benchmarks/accuracy/speed.py            # RepQuant and Bias Compensation on ViT-Tiny
    python benchmarks/accuracy/speed.py --pd       # and PD-Quant, fast preset, on ResNet-20 and MobileNetV2
    python benchmarks/accuracy/speed.py --profile  # where the time goes, by function

Seeded calibration images, w4a4, first and last layer at 8 bits; loading the network is not counted. The time of Bias
Compensation includes the pass that it is fitted in.
"""

import argparse
import cProfile
import platform
import pstats
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from cells import Store
from report import write_table
from subjects import SUBJECTS

from quant.pipeline import PolishContext, apply_recipe, uniform_assignment
from quant.recipe import Recipe
from quant.scheme import Scheme

SCHEME = Scheme.parse("w4a4")
RUNS = [
    ("vit_tiny", "repquant", 90),
    ("vit_tiny", "mse+bc", 15),
]
PD_RUNS = [("cifar10_resnet20", "mse+pd", 300), ("mobilenetv2", "mse+pd", 1500)]


def main() -> None:
    """Time each run once and write the page."""
    parser = argparse.ArgumentParser(description="time of the methods")
    parser.add_argument("--pd", action="store_true", help="PD-Quant too: half an hour")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows: list[list[str]] = []
    for network, recipe, target in RUNS + (PD_RUNS if args.pd else []):
        with tempfile.TemporaryDirectory() as place:
            subject = SUBJECTS[network].load(Store(Path(place) / "cells.jsonl"))
        batches = subject.calibration(0)
        assignment = uniform_assignment(subject.products(SCHEME), SCHEME, first_last_bits=8)
        profile = cProfile.Profile()
        start = time.perf_counter()
        if args.profile:
            profile.enable()
        polish = PolishContext(subject.batch_norms)
        apply_recipe(subject.module, assignment, batches, Recipe.parse(recipe), polish=polish)
        profile.disable()
        seconds = time.perf_counter() - start
        if args.profile:
            pstats.Stats(profile).sort_stats("tottime").print_stats(18)
        images = len(batches) * len(batches[0][0])
        rows.append([network, recipe, str(images), f"{seconds:.1f}", str(target)])
        print(*rows[-1], flush=True)
    if not args.profile:
        write_table(
            Path("reports/accuracy/speed.md"),
            "Time of the methods",
            [
                f"Command: `python benchmarks/accuracy/speed.py{' --pd' if args.pd else ''}`, {args.threads} threads, "
                f"{platform.machine()}, PyTorch {torch.__version__}. w4a4, calibration images of seed 0.",
            ],
            ["network", "recipe", "images", "seconds", "target, seconds"],
            rows,
        )


if __name__ == "__main__":
    main()
