"""Activation ranges without data: what the norms say, the extremes of synthetic inputs, or least squares on them.

    python benchmarks/accuracy/data_free.py

Round to nearest, every layer at the scheme's widths, nothing calibrated. Writes reports/accuracy/data_free.md after
every row.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
import datasets
from cells import Store
from report import write_table
from subjects import SUBJECTS, Subject

from quant.activation import ActRanges
from quant.data_free import data_free_ranges, ranges_without_data
from quant.observe import observe_ranges, synthetic_inputs
from quant.pipeline import uniform_assignment
from quant.qmodel import quantize
from quant.scheme import Scheme

IMAGES = {"cifar10_resnet20": 512, "cifar10_vit": 512, "mobilenetv2": 96, "vit_tiny": 64}
SCHEMES = ("w8a8", "w6a6", "w4a4")
SAMPLES = 16


def scored(subject: Subject, assignment: dict[str, Scheme], ranges: ActRanges, batches: int) -> str:
    """Top-1 and KL to float of the integer model."""
    model = quantize(subject.module, assignment, ranges=ranges).integer()
    with torch.no_grad():
        outputs = [model(*batch) for batch in subject.batches[:batches]]
    logits: Tensor = torch.cat([out[0] if isinstance(out, tuple) else out for out in outputs])
    top = 100 * float((logits.argmax(-1) == subject.labels[: len(logits)]).double().mean())
    return f"{top:.1f} ({datasets.kl_to_float(subject.exact[: len(logits)], logits):.3f})"


def main() -> None:
    """Every network and scheme with each kind of ranges."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    rows: list[list[str]] = []
    for name, images in IMAGES.items():
        with tempfile.TemporaryDirectory() as place:
            subject = SUBJECTS[name].load(Store(Path(place) / "cells"))
        size = subject.recipe.batch
        inputs = synthetic_inputs(subject.module, max(2, SAMPLES // size), 0, subject.batches[0])
        for text in SCHEMES:
            scheme = Scheme.parse(text)
            assignment = uniform_assignment(subject.products(scheme), scheme)
            wide = observe_ranges(subject.module, assignment, inputs, source="synthetic")
            kinds = (
                data_free_ranges(subject.module, assignment, wide),
                wide,
                observe_ranges(subject.module, assignment, inputs, method="mse", source="synthetic"),
                ranges_without_data(subject.module, assignment, inputs),
            )
            rows.append([name, text, *(scored(subject, assignment, kind, images // size) for kind in kinds)])
            write_table(
                Path("reports/accuracy/data_free.md"),
                "Activation ranges without data",
                [
                    "Command: `python benchmarks/accuracy/data_free.py`. Top-1 in % (KL to float in nats), round to "
                    "nearest, all layers at the scheme's widths, of "
                    + ", ".join(f"{count} images ({known})" for known, count in IMAGES.items())
                    + f"; {SAMPLES} or two batches of synthetic inputs, seed 0.",
                ],
                ["network", "scheme", "norms ± 6 deviations", "extremes of synthetic inputs",
                 "least squares on them", "hwsim: norms from 8 bits on, else least squares"],
                rows,
            )  # fmt: skip


if __name__ == "__main__":
    main()
