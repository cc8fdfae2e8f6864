"""Bit Fusion: cycles of reference networks per bit pair, against the published rows and totals.

python benchmarks/simulator/bitfusion.py
"""

import csv
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.simulator.tables import markdown, median_seconds, write  # noqa: E402
from hwsim.simulate.bitfusion import BitFusionLayer, bitfusion_cycles  # noqa: E402
from tests.hwsim.simulate.test_simulate_bitfusion import PUBLISHED  # noqa: E402

SHARED = Path(os.environ.get("HWSIM_SHARED", ROOT.parent / "shared"))
PAIRS = ((8, 8), (8, 4), (4, 4), (2, 2))
# Totals of the survey of published tools at batch 1, millions of cycles.
TOTALS = {"resnet18": (3.72, 2.09, 1.43, 1.05), "resnet50": (9.24, 6.25, 5.13, 4.24)}


def layers_of(model: str) -> list[BitFusionLayer]:
    """The convolutions and products of a reference table."""
    found: list[BitFusionLayer] = []
    for row in csv.DictReader((SHARED / "ref" / "topologies" / f"{model}_layers.csv").open()):
        if row["op"] == "conv":
            found.append(
                BitFusionLayer(
                    int(row["r"]),
                    int(row["out_e"]),
                    int(row["stride"]),
                    int(row["c"]),
                    int(row["N"]),
                    1,
                    row["idx"] == "0",
                )
            )
        else:
            found.append(BitFusionLayer(1, 1, 1, int(row["K"]), int(row["N"]), int(row["M"])))
    return found


def main() -> None:
    """Write reports/simulator/bitfusion.md; fails on a mismatch."""
    rows: list[list[object]] = []
    wrong = 0
    for name, (layer, act, weight, total, stall) in PUBLISHED.items():
        found = bitfusion_cycles(layer, act, weight)
        wrong += (found.total, found.stall) != (total, stall)
        rows.append(
            [name, f"a{act}w{weight}", f"{total:,}", f"{found.total:,}", f"{stall:,}", f"{found.stall:,}"]
        )
    published = markdown(["layer", "bits", "published cycles", "ours", "published waits", "ours"], rows)
    totals: list[list[object]] = []
    for model, expected in TOTALS.items():
        layers = layers_of(model)
        seconds = median_seconds(lambda ls=layers: [bitfusion_cycles(each, 8, 8) for each in ls], 3)
        for (act, weight), wanted in zip(PAIRS, expected, strict=True):
            total = sum(bitfusion_cycles(layer, act, weight).total for layer in layers) / 1e6
            wrong += abs(total - wanted) > 0.005
            totals.append([model, f"a{act}w{weight}", wanted, f"{total:.3f}", f"{1e3 * seconds:.0f}"])
    write(
        "bitfusion.md",
        "python benchmarks/simulator/bitfusion.py",
        "# Bit Fusion (ISCA 2018)",
        "Layers of the published sweep (16 × 32 fusion units, batch 16, 192 bit/cycle).",
        published,
        "Totals at batch 1, millions of cycles; the survey's figures come from the published simulator.",
        markdown(["model", "bits", "published simulator", "ours", "ms for the network"], totals),
        f"{wrong} mismatches.",
    )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
