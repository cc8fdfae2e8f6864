"""Writes an artifact: a folder that runs without torch and without the compiler.

module.so            kernels (for C and CUDA their source; for CUDA also a fat binary, or PTX for some generations)
params.safetensors   packed weights, scales, tables: one flat tensor for each constant
program.json         buffers with their places in the arena, and the kernel calls in order
plan.json            the plan it was made from, where there is one
manifest.json        shapes, machine, versions, integer share, sha256 of every other file
"""
# pyright: basic
# TVM ships no type stubs.

import json
import shutil
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from safetensors.numpy import save

from hwsim.compile.build import ALIGNMENT, build_objects, kernel_name, link
from hwsim.compile.c_source import c_source
from hwsim.compile.cuda_source import compile_cuda, cuda_source
from hwsim.compile.isa import Isa
from hwsim.compile.program import Port, Program, plan_memory
from hwsim.compile.proof import integer_proof
from hwsim.files import write_bytes, write_text
from hwsim.runtime.verify import SCHEMA_VERSION, sha256

_FEATURES = {
    "x86-vnni512": ("avx512_vnni", "avx512bw", "avx512vl"),
    "x86-vnni512-popcnt": ("avx512_vnni", "avx512bw", "avx512vl", "avx512_vpopcntdq"),
    "x86-amx": ("avx512_vnni", "avx512bw", "avx512vl", "amx_tile", "amx_int8"),
    "x86-avxvnni": ("avx_vnni", "avx2", "fma"),
    "x86-avx2": ("avx2", "fma"),
    "aarch64-dotprod": ("asimddp",),
    "aarch64-i8mm": ("asimddp", "i8mm"),
}
_ARCHITECTURES = {
    "x86": ["x86_64", "AMD64"],
    "aarch64": ["aarch64", "arm64"],
    "riscv64": ["riscv64"],
    "c": [],
    "cuda": [],
}


def params_file(program: Program) -> tuple[bytes, dict[str, int]]:
    """The constants as a safetensors file, and where each begins in it.

    Every tensor is stored with zeros up to a multiple of 64 bytes, so that all of them are aligned once the
    first one is: a runner reads the file into one buffer and copies nothing.
    """
    constants = {buffer.name: _padded(np.asarray(buffer.data)) for buffer in program.constants()}
    if len(constants) != len(program.constants()):
        raise AssertionError("two constants share a name")
    data = save(constants)
    header_size = struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8 : 8 + header_size])
    return data, {name: 8 + header_size + header[name]["data_offsets"][0] for name in constants}


def _padded(array: np.ndarray) -> np.ndarray:
    flat = array.reshape(-1)
    return np.pad(flat, (0, -flat.nbytes % ALIGNMENT // flat.itemsize))


def program_document(program: Program, isa: Isa, places: dict[str, int]) -> dict[str, Any]:
    """The program as plain data; buffers are numbered in order of first use, constants lie at ``places``."""
    offsets, arena = plan_memory(program)
    buffers = program.buffers()
    number = {buffer: index for index, buffer in enumerate(buffers)}

    def port(value: Port) -> dict[str, Any]:
        return {
            "name": value.name, "shape": list(value.shape), "dtype": value.dtype, "buffer": number[value.buffer]
        }  # fmt: skip

    entries: list[dict[str, Any]] = []
    for buffer in buffers:
        entry: dict[str, Any] = {"kind": buffer.kind, "dtype": buffer.dtype, "elements": buffer.elements}
        if buffer.kind == "work":
            entry["offset"] = offsets[buffer]
        else:
            entry["name"] = buffer.name
        if buffer.kind == "constant":
            entry["offset"] = places[buffer.name]
        entries.append(entry)
    return {
        "arena_bytes": arena,
        "inputs": [port(p) for p in program.inputs],
        "outputs": [port(p) for p in program.outputs],
        "buffers": entries,
        "steps": [
            [kernel_name(step.kernel, isa), [number[b] for b in step.buffers], step.layer, step.unit]
            for step in program.steps
        ],
    }


def _plain_program(document: dict[str, Any]) -> str:
    """`program.json` as words that fscanf reads."""
    buffers, steps = document["buffers"], document["steps"]
    lines = [
        f"hwsim-program 1 arena {document['arena_bytes']} buffers {len(buffers)} "
        f"inputs {len(document['inputs'])} outputs {len(document['outputs'])} steps {len(steps)}"
    ]
    lines.extend(f"{b['kind']} {b['dtype']} {b['elements']} {b.get('offset', 0)}" for b in buffers)
    lines.append(" ".join(str(port["buffer"]) for port in document["inputs"]))
    lines.append(" ".join(str(port["buffer"]) for port in document["outputs"]))
    lines.extend(
        f"{name} {unit} {len(places)} {' '.join(map(str, places))}" for name, places, _, unit in steps
    )
    return "\n".join(lines) + "\n"


def write_artifact(
    program: Program,
    isa: Isa,
    directory: Path,
    *,
    facts: dict[str, Any] | None = None,
    plan: str | None = None,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Compile and write everything; returns the manifest. ``facts`` (model, weights, ...) go into it as given."""
    directory.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    launches: dict[str, list[dict[str, Any]]] = {}
    if isa.name == "c":
        write_text(directory / "kernels.c", c_source(program.kernels(), isa))
        names.append("kernels.c")
    elif isa.device:
        source, launches = cuda_source(program.kernels(), isa)
        write_text(directory / "kernels.cu", source)
        names.append("kernels.cu")
        for name, content in compile_cuda(source):
            write_bytes(directory / name, content)
            names.append(name)
    else:
        objects = build_objects(program.kernels(), isa, progress)
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            library = Path(scratch) / "module.so"
            link(objects, isa, library)
            write_bytes(directory / "module.so", library.read_bytes())
        names.append("module.so")
    if threads > 1:
        shutil.copyfile(_runtime_library(), directory / "libtvm_runtime.so")
        names.append("libtvm_runtime.so")
    params, places = params_file(program)
    document = program_document(program, isa, places)
    if launches:
        document["launches"] = launches
    write_bytes(directory / "params.safetensors", params)
    write_text(directory / "program.json", json.dumps(document) + "\n")
    write_text(directory / "program.txt", _plain_program(document))
    names += ["params.safetensors", "program.json", "program.txt"]
    if plan is not None:
        write_text(directory / "plan.json", plan)
        names.append("plan.json")
    manifest = _manifest(program, isa, directory, names, facts or {}, threads)
    write_text(directory / "manifest.json", json.dumps(manifest, indent=2) + "\n")
    return manifest


def _manifest(
    program: Program, isa: Isa, directory: Path, names: list[str], facts: dict[str, Any], threads: int
) -> dict[str, Any]:
    ports = {
        kind: [{"name": p.name, "shape": list(p.shape), "dtype": p.dtype} for p in values]
        for kind, values in (("inputs", program.inputs), ("outputs", program.outputs))
    }
    proof = integer_proof(program, isa)
    return {
        "schema_version": SCHEMA_VERSION,
        **facts,
        **ports,
        "machine": {
            "name": isa.name,
            "target": isa.target_dict(),
            "architectures": _ARCHITECTURES[isa.name.partition("-")[0]],
            "features": list(_FEATURES.get(isa.name, ())),
        },
        "threads": threads,
        "steps": len(program.steps),
        "kernels": len(program.kernels()),
        "integer": proof.document(),
        "versions": {"tvm": tvm.__version__, "tvm_ffi": tvm_ffi.__version__},
        "files": {name: sha256(directory / name) for name in sorted(names)},
    }


def _runtime_library() -> Path:
    """The runtime with the thread pool, from the TVM wheel."""
    return next(Path(tvm.__file__).parent.rglob("libtvm_runtime.so"))
