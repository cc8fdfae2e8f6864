"""Accuracy of calibrated recipes on the real image networks: one table for one network.

    python benchmarks/accuracy/images.py --network vit_tiny --schemes w4a4 w8a8 --images 650 --seeds 0 1 2

Writes reports/accuracy/NETWORK.md. Calibration images are never evaluated; every row of a seed sees the same ones.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import datasets
from report import write_table

from hwsim.model.load import load_model
from quant.methods.interpret import GraphRunner
from quant.pipeline import apply_recipe, uniform_assignment
from quant.recipe import Recipe
from quant.scheme import Scheme

HERE = Path(__file__).resolve().parent
WEIGHTS = datasets.SHARED / "models"
RECIPES = {
    "vit": [
        "rtn",
        "mse",
        "mse+bc",
        "mse+logsoftmax",
        "mse+reparam+logsoftmax",
        "mse+reparam+gptq+logsoftmax",
        "repquant+logsoftmax",
        "repquant+logsoftmax+bc",
        "repquant+logsoftmax+pipe",
        "repquant+logsoftmax+pipe+bc",
    ],
    "cnn": [
        "rtn",
        "mse",
        "mse+bc",
        "mse+gptq",
        "mse+gptq+bc",
        "mse+pipe",
        "mse+gptq+pipe",
        "mse+gptq+pipe+bc",
    ],
}


@dataclass(frozen=True)
class Network:
    """How to load a network and its data."""

    spec: str
    weights: str | None
    family: str
    batch: int
    samples: int

    def calibration(self, seed):
        """Unlabelled samples."""
        if self.weights is not None:
            return datasets.imagenet("calib_1000", self.samples, seed)
        stats = datasets.CIFAR_VIT if self.family == "vit" else datasets.CIFAR_RESNET
        return datasets.cifar10("calib_1000", stats).take(self.samples, seed)

    def evaluation(self, count):
        """Labelled samples."""
        if self.weights is not None:
            return datasets.imagenet("val_a650", count, 5) if count < 650 else datasets.imagenet("val_a650")
        stats = datasets.CIFAR_VIT if self.family == "vit" else datasets.CIFAR_RESNET
        return datasets.cifar10("test_a5000", stats).take(min(count, 5000), 5)


NETWORKS = {
    "vit_tiny": Network("vit_t", "vit_tiny_patch16_224.safetensors", "vit", 16, 32),
    "mobilenetv2": Network(
        "timm:mobilenetv2_100?pad_type=same", "mobilenetv2_100_tfslim.safetensors", "cnn", 16, 64
    ),
    "cifar10_vit": Network(f"{HERE / 'networks.py'}:cifar10_vit", None, "vit", 50, 100),
    "cifar10_resnet20": Network(f"{HERE / 'networks.py'}:cifar10_resnet20", None, "cnn", 50, 200),
}


def main():
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, required=True)
    parser.add_argument("--schemes", nargs="+", default=["w8a8", "w6a6", "w4a8", "w4a4", "w3a4", "w2a4"])
    parser.add_argument("--recipes", nargs="+")
    parser.add_argument("--images", type=int, default=650)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    network = NETWORKS[args.network]
    recipes = args.recipes or RECIPES[network.family]
    weights = None if network.weights is None else WEIGHTS / network.weights
    module = load_model(network.spec, weights=weights, batch=network.batch).module
    runner = GraphRunner(module)
    names = [product.name for product in runner.products.values()]
    test = network.evaluation(args.images)
    batches = test.batches(network.batch)
    with torch.no_grad():
        exact = torch.cat([runner.logits(batch) for batch in batches])
    labels = test.labels[: len(exact)]
    rows = []
    output = args.output or Path("reports/accuracy") / f"{args.network}.md"
    for scheme in args.schemes:
        for recipe in recipes:
            found, seconds = [], []
            for seed in args.seeds:
                assignment = uniform_assignment(names, Scheme.parse(scheme), first_last_bits=8)
                calibration = network.calibration(seed).batches(network.batch)
                start = time.perf_counter()
                result = apply_recipe(module, assignment, calibration, Recipe.parse(recipe))
                seconds.append(time.perf_counter() - start)
                logits = torch.cat([result.logits(batch) for batch in batches])
                found.append((datasets.top1(logits, labels), datasets.kl_to_float(exact, logits)))
            top = torch.tensor([item[0] for item in found])
            spread = "" if len(found) == 1 else f" ± {float(top.std()):.2f}"
            kl = sum(item[1] for item in found) / len(found)
            rows.append(
                [scheme, recipe, f"{float(top.mean()):.2f}{spread}", f"{kl:.4f}", f"{min(seconds):.0f}"]
            )
            print(*rows[-1], sep="  ", flush=True)
            write_table(
                output,
                f"{args.network}: calibrated recipes",
                [
                    f"Command: `python benchmarks/accuracy/images.py {' '.join(sys.argv[1:])}`",
                    f"Float top-1 {datasets.top1(exact, labels):.2f} on the same {len(labels)} images; "
                    f"{network.samples} calibration images a seed, seeds {args.seeds}. First and last layer at 8 bits, "
                    "weights symmetric per output channel, activations per tensor.",
                    "`rtn`: min-max ranges. `mse`: least-squares ranges, the plain layer-wise baseline.",
                ],
                ["scheme", "recipe", "top-1 %", "KL to float", "calibration s"],
                rows,
            )


if __name__ == "__main__":
    main()
