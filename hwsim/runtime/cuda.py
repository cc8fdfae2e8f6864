"""Runs an artifact on an NVIDIA device: through the driver alone, with neither the CUDA toolkit nor torch.

Buffers lie in the device's memory as they do in a processor's: one arena, one copy of params.safetensors, one piece
for each input. A run copies the inputs over, launches every kernel in order and copies the outputs back.
"""
# pyright: basic
# ctypes functions are untyped.

import ctypes
import re
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from hwsim.errors import UserError
from hwsim.runtime.runner import ALIGNMENT, SLACK, Runner, read_params
from hwsim.runtime.verify import check_hash

_LIBRARY = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_NO_DEVICE = "the artifact needs an NVIDIA device; compile with --isa host for this processor"
OLDEST = 75  # compute capability times ten of the first devices that the kernels are compiled for


class Device:
    """The first device of this machine, by the driver's functions (CUDA driver API)."""

    def __init__(self, library: str | Path | None = None) -> None:
        try:
            self._library = ctypes.CDLL(str(library or _LIBRARY))
        except OSError as error:
            raise UserError(f"CUDA: no driver on this machine ({_LIBRARY})") from error
        number, count, context = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
        if self._library.cuInit(0) or self._library.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
            raise UserError("CUDA: the driver finds no device")
        self._call("cuDeviceGet", ctypes.byref(number), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), number)
        self._context = context
        self.use()
        text, found = ctypes.create_string_buffer(256), [ctypes.c_int(), ctypes.c_int()]
        self._call("cuDeviceGetName", text, 256, number)
        for value, attribute in zip(found, (_MAJOR, _MINOR), strict=True):
            self._call("cuDeviceGetAttribute", ctypes.byref(value), attribute, number)
        self.name = text.value.decode(errors="replace")
        self.capability = 10 * found[0].value + found[1].value

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(status, ctypes.byref(text))
            what = (text.value or b"unknown error").decode(errors="replace")
            raise UserError(f"CUDA: {name}: {what} ({status})")

    def use(self) -> None:
        """Make this device that of the calling thread."""
        self._call("cuCtxSetCurrent", self._context)

    def load(self, image: bytes) -> ctypes.c_void_p:
        """A module from a fat binary, a cubin or PTX."""
        module = ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(image))
        return module

    def function(self, module: ctypes.c_void_p, name: str) -> ctypes.c_void_p:
        """A kernel of a module."""
        function = ctypes.c_void_p()
        self._call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        return function

    def allocate(self, size: int) -> int:
        """Address of ``size`` bytes of device memory, zeroed, with slack behind them."""
        pointer = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(size + SLACK))
        self._call("cuMemsetD8_v2", pointer, ctypes.c_ubyte(0), ctypes.c_size_t(size + SLACK))
        return pointer.value

    def free(self, pointer: int) -> None:
        """Give memory back."""
        self._call("cuMemFree_v2", ctypes.c_uint64(pointer))

    def upload(self, pointer: int, array: np.ndarray) -> None:
        """Copy a contiguous array to the device."""
        data = array.ctypes.data_as(ctypes.c_void_p)
        self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(pointer), data, ctypes.c_size_t(array.nbytes))

    def download(self, array: np.ndarray, pointer: int) -> None:
        """Copy from the device into a contiguous array; waits for all that was launched."""
        data = array.ctypes.data_as(ctypes.c_void_p)
        self._call("cuMemcpyDtoH_v2", data, ctypes.c_uint64(pointer), ctypes.c_size_t(array.nbytes))

    def launch(self, function: ctypes.c_void_p, shape: tuple[int, int], parameters: "Parameters") -> None:
        """Start a kernel with so many blocks of so many threads."""
        (blocks, threads), array = shape, parameters.array
        self._call("cuLaunchKernel", function, blocks, 1, 1, threads, 1, 1, 0, None, array, None)

    def synchronize(self) -> None:
        """Wait for all that was launched."""
        self._call("cuCtxSynchronize")


class Parameters:
    """The parameters of a kernel, all of them addresses: the driver wants an array of where their values lie."""

    def __init__(self, pointers: Sequence[int]) -> None:
        self._values = (ctypes.c_uint64 * len(pointers))(*pointers)
        places = [ctypes.addressof(self._values) + 8 * index for index in range(len(pointers))]
        self.array = (ctypes.c_void_p * len(pointers))(*places)


class CudaModel(Runner):
    """An artifact loaded on a device."""

    def __init__(self, directory: Path, manifest: dict[str, Any], program: dict[str, Any]) -> None:
        super().__init__(manifest, program)
        try:
            self.device = Device()
        except UserError as error:
            raise UserError(f"{directory}: {error}; {_NO_DEVICE}") from error
        if self.device.capability < OLDEST:
            raise UserError(f"{directory}: needs compute capability {OLDEST / 10} or newer, "
                            f"{self.device.name} has {self.device.capability / 10}")  # fmt: skip
        module = self.device.load((directory / image_for(manifest, self.device.capability)).read_bytes())
        params, digest = read_params(directory / "params.safetensors")
        check_hash(manifest, directory / "params.safetensors", digest)
        self.weight_bytes, self.arena_bytes = params.nbytes, int(program["arena_bytes"])
        buffers = program["buffers"]
        constants = [int(b["offset"]) for b in buffers if b["kind"] == "constant"]
        shift = -constants[0] % ALIGNMENT if constants else 0  # the header of the file has any length
        self._bases = {
            "work": self.device.allocate(self.arena_bytes),
            "constant": self.device.allocate(params.nbytes + ALIGNMENT) + shift,
        }
        self.device.upload(self._bases["constant"], params)
        pointers = [self._pointer(entry, params.nbytes) for entry in buffers]
        self._steps = [self._launches(module, program["launches"][name], [pointers[i] for i in places])
                       for name, places, _, _ in program["steps"]]  # fmt: skip
        self._in, self._copied = self._ports(program, "inputs", pointers)
        self._out, self._read = self._ports(program, "outputs", pointers)

    def _pointer(self, entry: dict[str, Any], params_bytes: int) -> int:
        """Where one buffer lies: in the arena, among the parameters, or in a place of its own."""
        size = int(entry["elements"]) * np.dtype(entry["dtype"]).itemsize
        if entry["kind"] == "input":
            return self.device.allocate(size)
        offset, room = int(entry["offset"]), self.arena_bytes if entry["kind"] == "work" else params_bytes
        pointer = self._bases[entry["kind"]] + offset
        if offset < 0 or offset + size > room or pointer % ALIGNMENT:
            raise UserError("program.json does not fit params.safetensors; compile the artifact again")
        return pointer

    def _launches(self, module: ctypes.c_void_p, launches: list[dict[str, Any]], pointers: list[int]) -> Any:
        """Function, shape and parameters of every launch of one kernel."""
        return [
            (
                self.device.function(module, launch["symbol"]),
                (int(launch["blocks"]), int(launch["threads"])),
                Parameters([pointers[index] for index in launch["arguments"]]),
            )
            for launch in launches
        ]

    def _ports(self, program: dict[str, Any], kind: str, pointers: list[int]) -> Any:
        """Arrays of this processor for the inputs or outputs, and where they lie on the device."""
        places = [port["buffer"] for port in program[kind]]
        entries = [program["buffers"][place] for place in places]
        arrays = [np.zeros(int(entry["elements"]), entry["dtype"]) for entry in entries]
        return arrays, [pointers[place] for place in places]

    def run(self) -> None:
        """Copy the inputs over, launch every kernel, copy the outputs back."""
        self.device.use()
        for array, pointer in zip(self._in, self._copied, strict=True):
            self.device.upload(pointer, array)
        for step in self._steps:
            for function, shape, parameters in step:
                self.device.launch(function, shape, parameters)
        for array, pointer in zip(self._out, self._read, strict=True):
            self.device.download(array, pointer)

    def profile(self, repeats: int = 10) -> list[tuple[str, str, float]]:
        """(layer, kernel, best seconds) of every step, the time of its launch included; inputs must be set."""
        self.run()
        best = [float("inf")] * len(self._steps)
        for _ in range(repeats):
            for index, step in enumerate(self._steps):
                start = perf_counter()
                for function, shape, parameters in step:
                    self.device.launch(function, shape, parameters)
                self.device.synchronize()
                best[index] = min(best[index], perf_counter() - start)
        return list(zip(self.layers, self.kernels, best, strict=True))


def image_for(manifest: dict[str, Any], capability: int) -> str:
    """The file with code for a device that is not too old: a fat binary, else the newest PTX it takes."""
    if "kernels.fatbin" in manifest["files"]:
        return "kernels.fatbin"
    texts = (re.fullmatch(r"kernels\.sm_(\d+)\.ptx", name) for name in manifest["files"])
    found = [(int(text.group(1)), text.group(0)) for text in texts if text]
    if not found:
        raise UserError(
            "the artifact holds CUDA source alone: compile it again where nvcc is installed, "
            "or after pip install nvidia-cuda-nvrtc-cu12"
        )
    return max((minimum, name) for minimum, name in found if minimum <= capability)[1]
