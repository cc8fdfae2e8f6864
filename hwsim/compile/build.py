"""Kernels to machine code: one function for each distinct kernel, compiled once and kept by content.

A kernel is named by the hash of everything that decides its code (its description, the machine, the version
of TVM and of this generator). Objects lie in a cache directory under that name, so a second compile of an
unchanged kernel costs one file read.
"""
# pyright: basic
# TVM ships no type stubs.

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tvm

from hwsim.compile.builder import compile_functions
from hwsim.compile.isa import Isa
from hwsim.errors import UserError

ALIGNMENT = 64
_SLACK = 64
_ASK_FOR_TILES = """#include <sys/syscall.h>
#include <unistd.h>
__attribute__((constructor)) static void ask_for_tiles(void) { syscall(SYS_arch_prctl, 0x1023, 18); }
"""
"""Linux hands out the tile registers of AMX on request; whoever loads the library has made it, with or without us."""
_SOURCES = (
    "builder.py",
    "isa.py",
    "expr.py",
    "product.py",
    "product_code.py",
    "cuda_tensor_core.py",
    "tensor_core.cuh",
    "tensor_core_ptx.cuh",
    "panels.py",
    "vector.py",
    "rowwise.py",
    "resample.py",
    "operand.py",
    "powers.py",
    "serial.py",
    "tiles.py",
    "row_pairs.py",
    "depthwise.py",
    "together.py",
    "proof.py",
)


class Kernel(Protocol):
    """A description of code: hashable, with its parameters and a way to build it."""

    def arguments(self, isa: Isa) -> list[tuple[str, int, str]]:
        """Name, elements and dtype of every parameter, in order."""
        ...

    def build(self, name: str, isa: Isa) -> Any:
        """The TensorIR function."""
        ...


@cache
def _generator_hash() -> str:
    digest = hashlib.sha256(tvm.__version__.encode())
    for name in _SOURCES:
        path = Path(__file__).with_name(name)
        if path.exists():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def kernel_name(kernel: Kernel, isa: Isa) -> str:
    """Name of the compiled function: what it is and the hash of all that decides its code."""
    text = f"{kernel!r}|{isa!r}|{_generator_hash()}"
    return f"{type(kernel).__name__.lower()}_{hashlib.sha256(text.encode()).hexdigest()[:20]}"


def aligned(array: np.ndarray) -> np.ndarray:
    """``array`` flat, contiguous, at a 64-byte boundary with slack behind it: what generated code assumes."""
    raw = np.zeros(array.nbytes + ALIGNMENT + _SLACK, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    view = raw[start : start + array.nbytes].view(array.dtype)
    view[:] = array.reshape(-1)
    return view


@cache
def host_kernel(kernel: Kernel, isa: Isa) -> Any:
    """The kernel as a callable of this process."""
    name = kernel_name(kernel, isa)
    return compile_functions({name: kernel.build(name, isa)}, isa.target_dict()).jit()[name]


def call_kernel(kernel: Kernel, isa: Isa, arrays: list[np.ndarray]) -> None:
    """Run one kernel on numpy arrays; the last one receives the result. For tests and benchmarks."""
    from tvm_ffi import from_dlpack

    expected = kernel.arguments(isa)
    found = [(array.size, str(array.dtype)) for array in arrays]
    if found != [(size, dtype) for _, size, dtype in expected]:
        raise ValueError(f"kernel wants {expected}, got {found}")
    copies = [aligned(array) for array in arrays]
    host_kernel(kernel, isa)(*[from_dlpack(copy) for copy in copies])
    arrays[-1].reshape(-1)[:] = copies[-1]


def cache_directory() -> Path:
    """Where compiled objects are kept: ``HWSIM_CACHE`` or the user's cache directory."""
    base = os.environ.get("HWSIM_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hwsim" / "kernels"


def kernel_object(kernel: Kernel, isa: Isa, directory: Path) -> Path:
    """Compiled object of a kernel, from the cache or made now."""
    name = kernel_name(kernel, isa)
    path = directory / f"{name}.o"
    if not path.exists():
        executable = compile_functions({name: kernel.build(name, isa)}, isa.target_dict())
        directory.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{os.getpid()}.{path.name}")
        executable.mod.write_to_file(str(temporary), "o")
        os.replace(temporary, path)
    return path


def build_objects(
    kernels: list[Kernel], isa: Isa, progress: Callable[[int, int], None] | None = None
) -> list[Path]:
    """Objects of all kernels; ``progress(done, total)`` is called after each."""
    directory = cache_directory()
    objects: list[Path] = []
    for index, kernel in enumerate(kernels):
        objects.append(kernel_object(kernel, isa, directory))
        if progress is not None:
            progress(index + 1, len(kernels))
    return objects


def link(objects: list[Path], isa: Isa, output: Path) -> None:
    """One shared library of all objects, reproducible byte for byte."""
    compiler = isa.compiler or "cc"
    if shutil.which(compiler) is None:
        raise UserError(f"linker {compiler!r} not found: install it (Debian: apt-get install {compiler})")
    with tempfile.TemporaryDirectory() as scratch:
        sources = [str(path) for path in objects]
        if isa.tiles:
            sources.append(f"{scratch}/tiles.c")
            Path(sources[-1]).write_text(_ASK_FOR_TILES, encoding="utf-8")
        listing = Path(scratch) / "objects.rsp"
        listing.write_text("\n".join(sources), encoding="utf-8")
        flags = ["-shared", "-fPIC", "-Wl,--build-id=none"]
        command = [compiler, *flags, "-o", str(output), f"@{listing}", "-lm"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise UserError(f"{compiler}: linking {output} failed: {result.stderr.strip().splitlines()[-1]}")
