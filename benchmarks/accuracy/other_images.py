"""Rows of claims.md that say no, judged again on the images of the test sets that the table never looked at.

    python benchmarks/accuracy/other_images.py

Seventy comparisons on few images: some fall outside their error by chance. What is more than chance shows again on
other images. Cells are kept in reports/accuracy/other_images.jsonl as those of the table are.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import datasets
from cells import Cell, Outcome, Store, packed
from report import write_table
from subjects import FLOAT, SUBJECTS, Subject, scored_on
from table import measure
from tables import mean_and_error

FOLDER = Path("reports/accuracy")
CASES = [
    ("cifar10_vit", "w4a8", ("RepQuant+BC", "GPTQ+BC"), "BC (paper)"),
    ("vit_tiny", "w6a6", ("RepQuant+BC", "GPTQ+BC"), "RepQuant"),
]
"""Network, scheme, the compositions of the row, its single method."""
SEEDS = (0, 1, 2)


def others(name: str) -> Subject:
    """A network of the table with the rest of its test set."""
    recipe = SUBJECTS[name]
    with tempfile.TemporaryDirectory() as place:
        subject = recipe.load(Store(Path(place) / "cells"))
    whole = recipe.shuffled()
    rest = datasets.Samples(whole.inputs[recipe.images :], whole.labels[recipe.images :])
    return scored_on(rest, subject)


def row(store: Store, cells: list[Cell], base: list[Cell], exact: Cell) -> list[str]:
    """Top-1, gains over the float network and over the single method, divergence."""
    answers, single = (torch.stack([store.answers(c) for c in side]).mean(0) for side in (cells, base))
    gains = [100 * (answers - other) for other in (store.answers(exact), single)]
    texts = ["{:+.2f} ± {:.2f}".format(*mean_and_error(gain)) for gain in gains]
    far = sum(store.found[cell].divergence for cell in cells) / len(cells)
    first = cells[0]
    return [
        first.network, first.scheme, first.method, f"{100 * float(answers.mean()):.2f}", texts[0],
        "" if cells == base else texts[1], f"{far:.4f}",
    ]  # fmt: skip


def main() -> None:
    """Measure what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    store, rows, counts = Store(FOLDER / "other_images.jsonl"), list[list[str]](), dict[str, int]()
    for network, scheme, compositions, single in CASES:
        subject = others(network)
        counts[network] = len(subject.labels)
        exact = Cell(network, FLOAT, FLOAT, 0, len(subject.labels))
        if exact not in store.found:
            store.add(exact, Outcome(packed(subject.exact.argmax(-1) == subject.labels), 0.0, 0.0))
        made = {
            method: [Cell(network, scheme, method, seed, len(subject.labels)) for seed in SEEDS]
            for method in (single, *compositions)
        }
        for cell in (cell for cells in made.values() for cell in cells):
            if cell not in store.found:
                store.add(cell, measure(subject, cell))
        rows += [row(store, cells, made[single], exact) for cells in made.values()]
    write_table(
        FOLDER / "other_images.md",
        "Rows that say no, on other images",
        [
            "Command: `python benchmarks/accuracy/other_images.py`. The rest of each test set ("
            + ", ".join(f"{name}: {count} images" for name, count in counts.items())
            + f"), seeds {', '.join(map(str, SEEDS))}; ± is the standard error over images, paired by image.",
            "The first method of each row of claims.md is its single one. If a gain is more than luck with the images "
            "of the table, it shows here too.",
        ],
        ["network", "scheme", "method", "top-1", "over float", "over the single method", "KL to float"],
        rows,
    )


if __name__ == "__main__":
    main()
