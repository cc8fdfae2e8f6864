"""Markdown of the accuracy table: one page a network (methods by schemes), one page for the claims."""

from pathlib import Path

import torch
from cells import Cell, Store
from methods import CLAIMS, COMPOSED, DOUBLED, NOTES, PLAIN, SCHEMES, SINGLE, Claim
from report import write_table
from subjects import FLOAT, SUBJECTS

COMMAND = "python benchmarks/accuracy/table.py"


def _cells(store: Store, network: str, scheme: str, method: str) -> list[Cell]:
    key = (network, scheme, method)
    found = [
        c
        for c in store.found
        if (c.network, c.scheme, c.method) == key and c.images == SUBJECTS[network].images
    ]
    return sorted(found, key=lambda cell: cell.seed)


def _figure(store: Store, cells: list[Cell]) -> str:
    """Mean top-1 over seeds, with the deviation between seeds and their number."""
    if not cells:
        return ""
    top = torch.tensor([100 * float(store.answers(cell).mean()) for cell in cells])
    return (
        f"{float(top[0]):.1f} (1)"
        if len(top) == 1
        else f"{float(top.mean()):.1f} ± {float(top.std()):.1f} ({len(top)})"
    )


def write_network(path: Path, store: Store, network: str) -> None:
    """Methods down, schemes across."""
    subject = SUBJECTS[network]
    methods = ["min-max", PLAIN, *SINGLE[subject.family], *COMPOSED[subject.family]]
    schemes = [s for s in SCHEMES if any(_cells(store, network, s, m) for m in methods)]
    rows = [
        [method, *(_figure(store, _cells(store, network, scheme, method)) for scheme in schemes)]
        for method in methods
    ]
    exact = Cell(network, FLOAT, FLOAT, 0, subject.images)
    if exact not in store.found or not schemes:
        return
    write_table(
        path,
        f"{network}: methods and compositions",
        [
            f"Command: `{COMMAND} --networks {network}` (resumable; cells in `cells.jsonl`).",
            f"Top-1 in % of {subject.images} evaluation images, mean ± deviation between seeds (number of seeds); "
            f"{subject.samples} calibration images a seed. Float: {100 * float(store.answers(exact).mean()):.1f}. "
            "First and last layer at 8 bits, weights per output channel without a zero point, one grid an activation "
            "tensor. An empty place was not measured.",
            "Compositions hold a fifth of the batches out; what made those worse was dropped: "
            f"{_dropped(store, network)}.",
            *(f"{method}: {note}." for method, note in NOTES.items() if method in methods),
        ],
        ["method", *schemes],
        rows,
    )


def _dropped(store: Store, network: str) -> str:
    """What the referee did not keep, by scheme and composition."""
    found = [
        f"{cell.scheme} {cell.method} {outcome.dropped} (seed {cell.seed})"
        for cell, outcome in store.found.items()
        if cell.network == network and outcome.dropped and cell.images == SUBJECTS[network].images
    ]
    return ", ".join(sorted(found)) or "nothing"


def paired(
    store: Store, network: str, scheme: str, better: str, base: str
) -> tuple[float, float, int] | None:
    """Mean gain in points, its standard error over images (seeds averaged image by image), seeds in common."""
    left = {cell.seed: cell for cell in _cells(store, network, scheme, better)}
    right = {cell.seed: cell for cell in _cells(store, network, scheme, base)}
    seeds = sorted(left.keys() & right.keys())
    if not seeds:
        return None
    gains = torch.stack([store.answers(left[s]) - store.answers(right[s]) for s in seeds]).mean(0) * 100
    return float(gains.mean()), float(gains.std() / len(gains) ** 0.5), len(seeds)


def _claim_row(store: Store, claim: Claim) -> list[str]:
    found = paired(store, claim.network, claim.scheme, claim.better, claim.base)
    wanted = f"{claim.better} ≥ {claim.base}" + (f" + {claim.points:g}" if claim.points else "")
    if found is None:
        return [claim.network, claim.scheme, wanted, "not measured", "", ""]
    gain, error, seeds = found
    holds = "yes" if gain >= claim.points and gain > 0 else "no"
    if abs(gain - claim.points) < error:
        holds = "within the error"
    return [claim.network, claim.scheme, wanted, f"{gain:+.2f} ± {error:.2f}", str(seeds), holds]


def _best(store: Store, network: str, scheme: str, methods: list[str]) -> str | None:
    measured = {m: _cells(store, network, scheme, m) for m in methods}
    scored = {
        m: sum(float(store.answers(c).mean()) for c in cells) / len(cells)
        for m, cells in measured.items()
        if cells
    }
    return max(scored, key=scored.__getitem__) if scored else None


def _composition_rows(store: Store) -> list[list[str]]:
    """Best composition against best single method, at the same weight bits."""
    rows: list[list[str]] = []
    for network, subject in SUBJECTS.items():
        for scheme in SCHEMES:
            for doubled in (False, True):
                sides = [
                    _best(
                        store, network, scheme, [m for m in pool[subject.family] if (DOUBLED in m) == doubled]
                    )
                    for pool in (COMPOSED, SINGLE)
                ]
                if sides[0] is None or sides[1] is None:
                    continue
                found = paired(store, network, scheme, sides[0], sides[1])
                if found is not None:
                    gain, error, seeds = found
                    holds = "yes" if gain >= 0 else ("within the error" if gain >= -2 * error else "no")
                    text = f"{sides[0]} ≥ {sides[1]}"
                    rows.append([network, scheme, text, f"{gain:+.2f} ± {error:.2f}", str(seeds), holds])
    return rows


def write_claims(path: Path, store: Store) -> None:
    """What the table has to show, and whether it does."""
    write_table(
        path,
        "What the accuracy table has to show",
        [
            f"Command: `{COMMAND}`. Gains in points of top-1, paired by image; ± is the standard error over images.",
            "The lower rows set the best composition against the best single method, order-2 expansion (twice the "
            "weight bits) among its own kind.",
        ],
        ["network", "scheme", "claim", "gain", "seeds", "holds"],
        [*(_claim_row(store, claim) for claim in CLAIMS), *_composition_rows(store)],
    )
