"""PD-Quant against its own base (QDrop: same iterations, no prediction difference, no correction) on CIFAR-10.

    python benchmarks/accuracy/pd_quant.py --schemes w2a4 w2a2 --iterations 20000 --samples 1000 --paper

Writes reports/accuracy/pd_quant_cifar10_resnet20.md. Without --paper the fast preset is used.
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
import datasets
import networks
from report import write_table

from hwsim.model.load import load_model
from quant.methods.calibrate import CalibrationOptions, calibrate
from quant.methods.distribution_correction import BatchNormMemory
from quant.methods.interpret import GraphRunner
from quant.methods.pd_options import fast_options, paper_options
from quant.methods.pd_quant import pd_quant
from quant.pipeline import uniform_assignment
from quant.scheme import Scheme


def batch_norm_memory(model: nn.Module) -> dict[str, BatchNormMemory]:
    """Parameters of every batch norm, by the convolution in front of it (conv1 -> bn1 and so on)."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            conv = name.replace("bn", "conv")
            values = (module.running_mean, module.running_var, module.weight.detach(), module.bias.detach())
            found[conv] = BatchNormMemory(*values, module.eps)
    return found


def main():
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--schemes", nargs="+", default=["w2a4", "w2a2"])
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1005])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument(
        "--paper", action="store_true", help="the authors' settings instead of the fast preset"
    )
    parser.add_argument("--methods", nargs="+", default=["calibrated only", "QDrop", "PD", "PD + DC"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("reports/accuracy/pd_quant_cifar10_resnet20.md"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    factory = Path(__file__).resolve().parent / "networks.py"
    module = load_model(f"{factory}:cifar10_resnet20", batch=args.batch).module
    memory = batch_norm_memory(networks.cifar10_resnet20()[0])
    runner = GraphRunner(module)
    names = [product.name for product in runner.products.values()]
    missing = set(memory) - set(names)
    assert not missing, missing
    test = datasets.cifar10("test_a5000", datasets.CIFAR_RESNET).take(args.images, 5)
    batches = test.batches(args.batch)
    with torch.no_grad():
        exact = torch.cat([runner.logits(batch) for batch in batches])
    labels = test.labels[: len(exact)]
    preset = fast_options("resnet", args.iterations)
    if args.paper:
        preset = replace(paper_options("resnet"), iterations=args.iterations, holdout=0.2)
    variants = {
        "calibrated only": None,
        "QDrop": (replace(preset, lambda_r=float("inf")), None),
        "PD": (preset, None),
        "PD + DC": (preset, memory),
    }
    rows = [["fp", "", f"{datasets.top1(exact, labels):.2f}", "0", "", ""]]
    for text in args.schemes:
        assignment = uniform_assignment(names, Scheme.parse(text), first_last_bits=8)
        for label in args.methods:
            variant = variants[label]
            for seed in args.seeds:
                calibration = datasets.cifar10("calib_1000", datasets.CIFAR_RESNET).take(args.samples, seed)
                samples = calibration.batches(args.batch)
                start = time.perf_counter()
                result = calibrate(module, assignment, samples[:8], CalibrationOptions("mse", "mse"))
                if variant is not None:
                    options, known = variant
                    result = pd_quant(result, samples, replace(options, seed=seed), memory=known)
                seconds = time.perf_counter() - start
                logits = torch.cat([result.logits(batch) for batch in batches])
                reverted = sum(note.startswith("reverted") for note in result.notes.values())
                kl = datasets.kl_to_float(exact, logits)
                top = f"{datasets.top1(logits, labels):.2f}"
                rows.append(
                    [text, f"{label}, seed {seed}", top, f"{kl:.4f}", str(reverted), f"{seconds:.0f}"]
                )
                print(*rows[-1], sep="  ", flush=True)
                write_table(
                    args.output,
                    "CIFAR-10 ResNet-20: PD-Quant and its base",
                    [
                        f"Command: `python benchmarks/accuracy/pd_quant.py {' '.join(sys.argv[1:])}`",
                        f"{args.iterations} iterations a unit, {args.samples} calibration images, a fifth of them held "
                        f"out, {len(labels)} test images; first and last layer at 8 bits.",
                    ],
                    ["scheme", "method", "top-1 %", "KL to float", "units reverted", "seconds"],
                    rows,
                )


if __name__ == "__main__":
    main()
