"""The runner: a flat list of kernel calls on one arena, prepared at load so that a call only calls.

Generated code assumes 64-byte aligned buffers and a vector of slack behind each; both are made here, and
inputs are copied to such places after their shapes and types were checked.
"""
# pyright: basic
# tvm_ffi is untyped where it matters.

import ctypes
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwsim.errors import UserError
from hwsim.runtime.verify import check_machine, read_manifest

_ALIGNMENT = 64


@dataclass(frozen=True)
class Port:
    """An input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def allocate(size: int) -> np.ndarray:
    """``size`` zeroed bytes at a 64-byte boundary, with 64 bytes of slack behind them."""
    raw = np.zeros(size + 2 * _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size + _ALIGNMENT]


class Model:
    """A loaded artifact; call it with arrays in order, or by name."""

    def __init__(self, directory: Path, manifest: dict[str, Any], program: dict[str, Any]) -> None:
        import tvm_ffi
        from safetensors import safe_open

        self.manifest = manifest
        self.inputs = tuple(Port(p["name"], tuple(p["shape"]), p["dtype"]) for p in program["inputs"])
        self.outputs = tuple(Port(p["name"], tuple(p["shape"]), p["dtype"]) for p in program["outputs"])
        if "libtvm_runtime.so" in manifest["files"]:
            os.environ.setdefault("TVM_NUM_THREADS", str(manifest["threads"]))
            ctypes.CDLL(str(directory / "libtvm_runtime.so"), ctypes.RTLD_GLOBAL)
        self._module = tvm_ffi.load_module(str(directory / "module.so"))
        self._arena = allocate(program["arena_bytes"])
        arrays: list[np.ndarray] = []
        with safe_open(directory / "params.safetensors", framework="numpy") as params:
            for entry in program["buffers"]:
                dtype, size = np.dtype(entry["dtype"]), int(entry["elements"])
                if entry["kind"] == "work":
                    place = self._arena[entry["offset"] : entry["offset"] + size * dtype.itemsize]
                    array = place.view(dtype)
                else:
                    array = allocate(size * dtype.itemsize)[: size * dtype.itemsize].view(dtype)
                if entry["kind"] == "constant":
                    stored = params.get_tensor(entry["name"])
                    if stored.shape != (size,) or stored.dtype != dtype:
                        raise UserError(f"params.safetensors: {entry['name']} is not what the program needs")
                    array[:] = stored
                arrays.append(array)
        self._arrays = arrays
        tensors = [tvm_ffi.from_dlpack(array) for array in arrays]
        functions = {name: self._module[name] for name in {step[0] for step in program["steps"]}}
        self._steps = [
            (functions[name], [tensors[i] for i in places]) for name, places, _ in program["steps"]
        ]
        self.layers = [layer for _, _, layer in program["steps"]]
        self.kernels = [name for name, _, _ in program["steps"]]
        self._in = [arrays[p["buffer"]] for p in program["inputs"]]
        self._out = [arrays[p["buffer"]] for p in program["outputs"]]

    @property
    def weight_bytes(self) -> int:
        """Bytes of all constants, as loaded."""
        return sum(array.nbytes for array in self._arrays if not np.shares_memory(array, self._arena))

    @property
    def arena_bytes(self) -> int:
        """Bytes of the planned activation memory."""
        return self._arena.nbytes

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

    def run(self) -> None:
        """Execute all kernels on the inputs that were set."""
        for function, arguments in self._steps:
            function(*arguments)

    def get_outputs(self) -> dict[str, np.ndarray]:
        """Copies of the outputs."""
        return {
            port.name: place.reshape(port.shape).copy()
            for port, place in zip(self.outputs, self._out, strict=True)
        }

    def profile(self, repeats: int = 10) -> list[tuple[str, str, float]]:
        """(layer, kernel, best seconds) of every step; inputs must be set."""
        from time import perf_counter

        best = [float("inf")] * len(self._steps)
        for _ in range(repeats):
            for index, (function, arguments) in enumerate(self._steps):
                start = perf_counter()
                function(*arguments)
                best[index] = min(best[index], perf_counter() - start)
        return list(zip(self.layers, self.kernels, best, strict=True))


def load(directory: str | Path) -> Model:
    """Verify and load an artifact folder made by ``hwsim compile``."""
    root = Path(directory)
    manifest = read_manifest(root)
    check_machine(manifest)
    if "module.so" not in manifest["files"]:
        raise UserError(f"{root}: holds no shared library for this machine; compile with --isa host")
    program = json.loads((root / "program.json").read_text(encoding="utf-8"))
    return Model(root, manifest, program)
