"""What all runners share: the ports of an artifact, its inputs and outputs, and its parameters in memory."""
# pyright: basic

import hashlib
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwsim.errors import UserError

ALIGNMENT = 64
_PIECE = 1 << 22  # bytes read at once
SLACK = 64  # bytes behind every buffer that generated code may read


@dataclass(frozen=True)
class Port:
    """An input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def allocate(size: int) -> np.ndarray:
    """``size`` zeroed bytes at a 64-byte boundary, with 64 bytes of slack behind them."""
    raw = np.zeros(size + 2 * ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size + ALIGNMENT]


def read_params(path: Path) -> tuple[np.ndarray, str]:
    """A safetensors file in one buffer, its data at a 64-byte boundary, and the sha256 of the whole file.

    A second thread hashes each piece while the next one is read.
    """
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream, ThreadPoolExecutor(1) as hashing:
        head = 8 + int.from_bytes(stream.read(8), "little")
        stream.seek(0)
        raw = np.empty(size + 2 * ALIGNMENT, np.uint8)
        start = (-raw.ctypes.data - head) % ALIGNMENT
        content = raw[start : start + size]
        done = 0 if head <= size else size + 1
        while done < size:
            count = stream.readinto(content[done : done + _PIECE].data)
            if not count:
                break
            hashing.submit(digest.update, content[done : done + count].data)
            done += count
        if done != size:
            raise UserError(f"{path}: not a safetensors file; compile the artifact again")
    raw[start + size :] = 0
    return raw[start:], digest.hexdigest()


class Runner(ABC):
    """A loaded artifact; call it with arrays in order, or by name."""

    _in: list[np.ndarray]
    _out: list[np.ndarray]
    weight_bytes: int
    """Bytes of all constants, as loaded."""
    arena_bytes: int
    """Bytes of the planned activation memory."""

    def __init__(self, manifest: dict[str, Any], program: dict[str, Any]) -> None:
        self.manifest = manifest
        self.inputs = tuple(Port(p["name"], tuple(p["shape"]), p["dtype"]) for p in program["inputs"])
        self.outputs = tuple(Port(p["name"], tuple(p["shape"]), p["dtype"]) for p in program["outputs"])
        self.layers = [layer for _, _, layer, _ in program["steps"]]
        self.kernels = [name for name, _, _, _ in program["steps"]]

    def __call__(self, *arrays: np.ndarray, **named: np.ndarray) -> dict[str, np.ndarray]:
        """Run once; returns fresh arrays by output name."""
        self.set_inputs(*arrays, **named)
        self.run()
        return self.get_outputs()

    def set_inputs(self, *arrays: np.ndarray, **named: np.ndarray) -> None:
        """Check and copy the inputs."""
        given = dict(zip((p.name for p in self.inputs), arrays, strict=False)) | named
        wanted = {port.name for port in self.inputs}
        if len(arrays) > len(self.inputs) or set(given) != wanted:
            raise UserError(f"inputs {sorted(given)}: the model takes {[p.name for p in self.inputs]}")
        for port, place in zip(self.inputs, self._in, strict=True):
            array = np.asarray(given[port.name])
            if tuple(array.shape) != port.shape:
                raise UserError(
                    f"input {port.name}: shape {tuple(array.shape)}, the model takes {port.shape}"
                )
            if array.dtype != port.dtype and not np.can_cast(array.dtype, port.dtype, "same_kind"):
                raise UserError(f"input {port.name}: type {array.dtype}, the model takes {port.dtype}")
            place[:] = array.reshape(-1)

    @property
    def units(self) -> int:
        """Cores that one inference uses."""
        return int(self.manifest["threads"])

    @abstractmethod
    def run(self) -> None:
        """Execute all kernels on the inputs that were set."""

    @abstractmethod
    def profile(self, repeats: int = 10) -> list[tuple[str, str, float]]:
        """(layer, kernel, best seconds) of every step; inputs must be set."""

    def get_outputs(self) -> dict[str, np.ndarray]:
        """Copies of the outputs."""
        return {
            port.name: place.reshape(port.shape).copy()
            for port, place in zip(self.outputs, self._out, strict=True)
        }
