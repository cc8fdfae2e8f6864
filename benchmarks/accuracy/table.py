"""Accuracy of every method and composition on real weights: one resumable command for the whole table.

    python benchmarks/accuracy/table.py --minutes 30

Finished cells are kept in reports/accuracy/cells.jsonl and skipped, so the command may be stopped and repeated
until the table is full; the lines that matter most come first. Writes reports/accuracy/NETWORK.md and
reports/accuracy/claims.md after every cell. Calibration images are never evaluated; all methods of one seed see
the same calibration images, and all seeds are scored on the same evaluation images.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import datasets
from cells import Cell, Outcome, Store, packed
from methods import CLAIMS, COMPOSED, PLAIN, SCHEMES, SINGLE, recipe_of
from subjects import SUBJECTS, Subject
from tables import write_claims, write_network

from quant.pipeline import PolishContext, apply_recipe, run_recipe, uniform_assignment
from quant.scheme import Scheme

FOLDER = Path("reports/accuracy")


def wanted(args: argparse.Namespace) -> Iterator[Cell]:
    """The cells that were asked for: those of the claims first, then all by seed, scheme and network."""
    for seed in args.seeds:
        for claim in CLAIMS:
            for method in (claim.base, claim.better):
                if claim.network in args.networks and (method in args.methods or not args.methods):
                    yield Cell(claim.network, claim.scheme, method, seed, SUBJECTS[claim.network].images)
    for seed, scheme, network in itertools.product(args.seeds, args.schemes, args.networks):
        subject = SUBJECTS[network]
        for method in ["min-max", PLAIN, *SINGLE[subject.family], *COMPOSED[subject.family]]:
            if not args.claims and (method in args.methods or not args.methods):
                yield Cell(network, scheme, method, seed, subject.images)


def measure(subject: Subject, cell: Cell) -> Outcome:
    """Calibrate and score one cell; a composition under the held-out referee, as `hwsim quantize` does it."""
    scheme, recipe = Scheme.parse(cell.scheme), recipe_of(cell.method)
    assignment = uniform_assignment(subject.products(scheme), scheme, first_last_bits=8)
    batches = subject.calibration(cell.seed)
    polish = PolishContext(subject.batch_norms)
    start, dropped = time.perf_counter(), ()
    if cell.method in COMPOSED[subject.recipe.family]:
        result = run_recipe(subject.module, assignment, batches, recipe, polish=polish)
        made, dropped = result.calibrated, [v.item for v in result.verdicts if not v.kept]
    else:
        made = apply_recipe(subject.module, assignment, batches, recipe, polish=polish)
    seconds = time.perf_counter() - start
    logits = torch.cat([made.logits(batch) for batch in subject.batches])
    right = logits.argmax(-1) == subject.labels
    return Outcome(
        packed(right), datasets.kl_to_float(subject.exact, logits), round(seconds, 1), "+".join(dropped)
    )


def main():
    """Fill the table until it is full or the time is up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(SUBJECTS), choices=SUBJECTS)
    parser.add_argument("--schemes", nargs="+", default=SCHEMES)
    parser.add_argument("--methods", nargs="+", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--claims", action="store_true", help="only the cells that the claims need")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    stop = time.monotonic() + 60 * args.minutes
    store, subjects = Store(FOLDER / "cells.jsonl"), {}
    for cell in wanted(args):
        if cell in store.found:
            continue
        if time.monotonic() > stop:
            break
        if cell.network not in subjects:
            subjects[cell.network] = SUBJECTS[cell.network].load(store)
        outcome = measure(subjects[cell.network], cell)
        store.add(cell, outcome)
        top = 100 * float(store.answers(cell).mean())
        print(
            cell.network,
            cell.scheme,
            cell.method,
            f"seed {cell.seed}: {top:.2f} %, KL {outcome.divergence:.3f} in {outcome.seconds} s",
            f"dropped {outcome.dropped}" if outcome.dropped else "",
            flush=True,
        )
        write_pages(store)
    write_pages(store)


def write_pages(store: Store):
    """All pages from what the store holds."""
    for network in SUBJECTS:
        write_network(FOLDER / f"{network}.md", store, network)
    write_claims(FOLDER / "claims.md", store)


if __name__ == "__main__":
    main()
