"""Cells of the accuracy table: which are wanted, in what order, and a file that remembers the finished ones."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Cell:
    """One figure: a network under a scheme after a method, calibrated with the samples of one seed."""

    network: str
    scheme: str
    method: str
    seed: int
    images: int


@dataclass(frozen=True)
class Outcome:
    """What was measured; ``right`` is one bit an image, so that methods can be compared image by image."""

    right: str
    divergence: float  # mean KL(float || quantized)
    seconds: float
    dropped: str = ""  # items of a composition that the held-out referee did not keep


def packed(right: Tensor) -> str:
    """A boolean vector as hexadecimal."""
    return np.packbits(right.numpy()).tobytes().hex()


class Store:
    """JSON lines of finished cells; appended to, so a stopped run loses only the cell it was at."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[Cell, Outcome] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                taken = {f.name: entry.pop(f.name) for f in fields(Outcome) if f.name in entry}
                outcome = Outcome(**taken)
                self.found[Cell(**entry)] = outcome

    def add(self, cell: Cell, outcome: Outcome) -> None:
        """Remember a cell."""
        self.found[cell] = outcome
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(cell) | asdict(outcome)) + "\n")

    def answers(self, cell: Cell) -> Tensor:
        """1 for every image answered right."""
        bits = np.frombuffer(bytes.fromhex(self.found[cell].right), dtype=np.uint8)
        return torch.from_numpy(np.unpackbits(bits)[: cell.images].copy()).double()
