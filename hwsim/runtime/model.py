"""The runner: a flat list of kernel calls on one arena, prepared at load so that a call only calls.

Generated code assumes 64-byte aligned buffers and a vector of slack behind each; both are made here, and
inputs are copied to such places after their shapes and types were checked. Constants are not copied: the file is
read into one buffer in which all of them are aligned. Steps that the compiler gave to different units run on
threads of their own; a kernel call releases the interpreter's lock.
"""
# pyright: basic
# tvm_ffi is untyped where it matters.

import ctypes
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from hwsim.errors import UserError
from hwsim.runtime.library import open_library
from hwsim.runtime.runner import ALIGNMENT, Runner, allocate, read_params
from hwsim.runtime.verify import ask_for_tiles, check_hash, check_machine, read_manifest, sha256


def _load_thread_pool(library: Path, threads: int) -> None:
    """The runtime with the thread pool, once in a process: a second copy would abort it."""
    import tvm_ffi

    os.environ.setdefault("TVM_NUM_THREADS", str(threads))
    os.environ.setdefault(
        "TVM_BIND_THREADS", "0"
    )  # units run on threads of ours too: leave cores to the system
    if tvm_ffi.get_global_func("ffi.Module.load_from_bytes.const_loader", allow_missing=True) is None:
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


def schedule(units: list[int]) -> list[list[list[int]]]:
    """Steps as blocks of lanes: neighbouring steps with a unit form a block, one lane for each unit.

    A step of unit -1 waits for everything before it and runs alone. Blocks run one after another.
    """
    blocks: list[list[list[int]]] = []
    for alone, steps in groupby(range(len(units)), lambda index: units[index] < 0):
        if alone:
            blocks.append([list(steps)])
            continue
        lanes: dict[int, list[int]] = {}
        for index in steps:
            lanes.setdefault(units[index], []).append(index)
        blocks.append([lanes[unit] for unit in sorted(lanes)])
    return blocks


class Model(Runner):
    """An artifact loaded for this processor."""

    def __init__(self, directory: Path, manifest: dict[str, Any], program: dict[str, Any]) -> None:
        import tvm_ffi

        super().__init__(manifest, program)
        if "libtvm_runtime.so" in manifest["files"]:
            _load_thread_pool(directory / "libtvm_runtime.so", manifest["threads"])
        self._module = open_library(directory / "module.so", manifest["files"]["module.so"])
        self._arena = allocate(program["arena_bytes"])
        self._params, digest = read_params(directory / "params.safetensors")
        self.weight_bytes, self.arena_bytes = self._params.nbytes, self._arena.nbytes
        check_hash(manifest, directory / "params.safetensors", digest)
        arrays = [self._place(entry) for entry in program["buffers"]]
        tensors = [tvm_ffi.from_dlpack(array) for array in arrays]
        functions = {name: self._module[name] for name in set(self.kernels)}
        self._steps = [
            (functions[name], [tensors[i] for i in places]) for name, places, _, _ in program["steps"]
        ]
        self._schedule = schedule([unit for _, _, _, unit in program["steps"]])
        units = max((len(lanes) for lanes in self._schedule), default=1)
        self._pool = ThreadPoolExecutor(units - 1, "hwsim-unit") if units > 1 else None
        self._in = [arrays[p["buffer"]] for p in program["inputs"]]
        self._out = [arrays[p["buffer"]] for p in program["outputs"]]

    def _place(self, entry: dict[str, Any]) -> np.ndarray:
        """The memory of one buffer: a window of the arena, of the parameters, or its own."""
        dtype, size = np.dtype(entry["dtype"]), int(entry["elements"])
        if entry["kind"] == "input":
            return allocate(size * dtype.itemsize)[: size * dtype.itemsize].view(dtype)
        base = self._arena if entry["kind"] == "work" else self._params
        window = base[entry["offset"] : entry["offset"] + size * dtype.itemsize]
        if window.nbytes != size * dtype.itemsize or window.ctypes.data % ALIGNMENT:
            raise UserError("program.json does not fit params.safetensors; compile the artifact again")
        return window.view(dtype)

    @contextmanager
    def on_one_core(self) -> Iterator[None]:
        """Run everything on the calling thread, for comparison: same kernels, same bits."""
        import tvm_ffi

        configure = tvm_ffi.get_global_func("runtime.config_threadpool", allow_missing=True)
        pool, self._pool = self._pool, None
        if configure is not None:
            configure(1, 1)
        try:
            yield
        finally:
            self._pool = pool
            if configure is not None:
                configure(1, self.units)

    def run(self) -> None:
        """Execute all kernels on the inputs that were set; lanes of a block on threads of their own."""
        for own, *others in self._schedule:
            if self._pool is None:
                for lane in (own, *others):
                    self._run_lane(lane)
                continue
            waiting = [self._pool.submit(self._run_lane, lane) for lane in others]
            self._run_lane(own)
            for future in waiting:
                future.result()

    def _run_lane(self, lane: list[int]) -> None:
        for index in lane:
            function, arguments = self._steps[index]
            function(*arguments)

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


def load(directory: str | Path) -> Runner:
    """Verify and load an artifact folder made by ``hwsim compile``."""
    root = Path(directory)
    manifest = read_manifest(root)
    on_device = manifest["machine"]["target"]["kind"] == "cuda"
    if not on_device:
        check_machine(manifest)
        ask_for_tiles(manifest)
    if not on_device and "module.so" not in manifest["files"]:
        raise UserError(f"{root}: holds no shared library for this machine; compile with --isa host")
    for name in manifest["files"]:
        if name != "params.safetensors":  # hashed while it is read, once
            check_hash(manifest, root / name, sha256(root / name))
    program = json.loads((root / "program.json").read_text(encoding="utf-8"))
    if on_device:
        from hwsim.runtime.cuda import CudaModel

        return CudaModel(root, manifest, program)
    return Model(root, manifest, program)
