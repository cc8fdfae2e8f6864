"""Markdown of the accuracy table: one page a network (methods by schemes), one page for the claims."""

import itertools
from collections.abc import Iterable
from pathlib import Path

import torch
from cells import Cell, Store
from methods import CLAIMS, COMPOSED, DOUBLED, NOTES, PLAIN, SCHEMES, SINGLE, Claim
from report import write_table
from subjects import FLOAT, SUBJECTS
from torch import Tensor

BySeed = dict[int, Tensor]
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
    return *mean_and_error(gains), len(seeds)


def mean_and_error(gains: Tensor) -> tuple[float, float]:
    """Mean over images and its standard error."""
    return float(gains.mean()), float(gains.std() / len(gains) ** 0.5)


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


def _measured(store: Store, network: str, scheme: str, methods: list[str]) -> dict[str, list[Cell]]:
    """Cells of the methods that have any."""
    found = {method: _cells(store, network, scheme, method) for method in methods}
    return {method: cells for method, cells in found.items() if cells}


def _answers(store: Store, measured: dict[str, list[Cell]]) -> dict[str, BySeed]:
    """By method and seed, which images were answered right."""
    return {m: {cell.seed: store.answers(cell) for cell in cells} for m, cells in measured.items()}


def _share(answers: BySeed, seeds: Iterable[int]) -> Tensor:
    """Share of the seeds that answered right, image by image."""
    return torch.stack([answers[seed] for seed in seeds]).mean(0)


def _least_divergence(store: Store, measured: dict[str, list[Cell]]) -> float:
    """Of the method whose predictions are closest to the float network's, on average over its seeds."""
    return min(sum(store.found[c].divergence for c in cells) / len(cells) for cells in measured.values())


def _crossed(ours: dict[str, BySeed], theirs: dict[str, BySeed]) -> tuple[float, float, str]:
    """Gain of the best of ours over the best of theirs, its standard error, and who they were.

    Of several methods that do equally well the one that looks best is lucky on the very images that made it so.
    Each half of the images is therefore judged with the best of the other half. Two methods are compared over the
    seeds that both have, if there are any: a seed has its own calibration images, harder ones for all or easier ones.
    """
    gains, names = [], []
    for half in (0, 1):
        best = [
            max(side, key=lambda m: float(_share(side[m], side[m])[1 - half :: 2].mean()))
            for side in (ours, theirs)
        ]
        left, right = ours[best[0]], theirs[best[1]]
        seeds = left.keys() & right.keys()
        gains.append((_share(left, seeds or left) - _share(right, seeds or right))[half::2])
        names.append(best)
    text = " ≥ ".join("/".join(dict.fromkeys(pair)) for pair in zip(*names, strict=True))
    return *mean_and_error(100 * torch.cat(gains)), text


def _composition_rows(store: Store) -> list[list[str]]:
    """Best composition against best single method, at the same weight bits."""
    rows: list[list[str]] = []
    for (network, subject), scheme, doubled in itertools.product(SUBJECTS.items(), SCHEMES, (False, True)):
        ours, theirs = (
            _measured(store, network, scheme, [m for m in pool[subject.family] if (DOUBLED in m) == doubled])
            for pool in (COMPOSED, SINGLE)
        )
        if not ours or not theirs:
            continue
        gain, error, text = _crossed(_answers(store, ours), _answers(store, theirs))
        holds = "yes" if gain >= 0 else ("within the error" if gain >= -2 * error else "no")
        seeds = sorted({len(cells) for cells in (*ours.values(), *theirs.values())})
        far = [_least_divergence(store, side) for side in (ours, theirs)]
        ratio = f"{far[0] / far[1]:.2f}" if far[1] > 0 else ""
        rows.append(
            [network, scheme, text, f"{gain:+.2f} ± {error:.2f}", "–".join(map(str, seeds)), holds, ratio]
        )
    return rows


def write_claims(path: Path, store: Store) -> None:
    """What the table has to show, and whether it does."""
    write_table(
        path,
        "What the accuracy table has to show",
        [
            f"Command: `{COMMAND}`. Gains in points of top-1, paired by image; ± is the standard error over images.",
            "The lower rows set the best composition against the best single method, order-2 expansion (twice the "
            "weight bits) among its own kind. Which are the best is decided on one half of the images and judged on "
            "the other, both ways round: the best of several on the images that chose it looks better than it is. "
            "Divergence: the least mean KL from the float network that any composition reached, over the least that "
            "any single method reached; it moves less by chance than top-1 does. Two methods are compared over the "
            "seeds that both have. A row that says no is judged again on other images in `other_images.md`.",
        ],
        ["network", "scheme", "claim", "gain", "seeds", "holds", "divergence"],
        [*([*_claim_row(store, claim), ""] for claim in CLAIMS), *_composition_rows(store)],
    )
