"""A CPU in the place of an NVIDIA device: generated CUDA source as a library that answers like the driver.

`cuda_on_cpu.hpp` gives the language, the threads and the instructions; here every `asm` statement of the source
becomes a call of the function that is named like its instruction, with the operands that its text names. So what
runs is the source as it stands, inline PTX included. This shows what it computes, and says nothing of speed.
"""

import re
import subprocess
from pathlib import Path

import numpy as np

from hwsim.compile.build import kernel_name
from hwsim.compile.isa import ISAS
from hwsim.runtime.cuda import Device, Parameters

HEADER = Path(__file__).with_name("cuda_on_cpu.hpp")
_ASM = re.compile(r'asm volatile\(((?:[^"]|"[^"]*")*?)\);')
_OPERAND = re.compile(r'"[=+]?([a-z])"\s*\(')
_KERNEL = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(([^)]*)\)\s*\{')


def _expressions(text):
    """C expressions of the operands of an asm statement, in order."""
    found = []
    for match in _OPERAND.finditer(text):
        depth, end = 1, match.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        found.append(text[match.end() : end - 1])
    return found


def _call(match):
    """One asm statement as a call."""
    literal = re.match(r'\s*"([^"]*)"', match.group(1))
    expressions = _expressions(match.group(1)[literal.end() :])
    name, _, operands = literal.group(1).rstrip(";").partition(" ")
    operands = re.sub(r"[{}\[\]]", "", operands)
    operands = re.sub(r"%(\d+)", lambda number: f"({expressions[int(number.group(1))]})", operands)
    return f"{re.sub(r'[.:]+', '_', name)}({operands});"


def as_cpp(source, capability):
    """The file as C++ for the CPU."""
    kernels = _KERNEL.findall(source)
    table = ", ".join(f'{{"{n}", (void*){n}, {len(p.split(","))}}}' for n, p in kernels)
    constants = f"const int FUNCTION_COUNT = {len(kernels)}, CAPABILITY = {capability};"
    head = f'#define __CUDA_ARCH__ {10 * capability}\n#include "{HEADER}"\n'
    source = re.sub(r"__shared__ (alignas\(\d+\))", r"\1 SHARED", _ASM.sub(_call, source))
    return f"{head}{source}\nconst Function FUNCTIONS[] = {{{table}}};\n{constants}\n"


def driver(source, scratch, capability=80):
    """The library: a driver whose device of this compute capability knows the kernels of ``source``."""
    (scratch / "driver.cpp").write_text(as_cpp(source, capability), encoding="utf-8")
    command = [
        "g++",
        "-O1",
        "-w",
        "-std=c++17",
        "-fno-strict-aliasing",
        "-ffp-contract=off",
        "-shared",
        "-fPIC",
    ]
    subprocess.run([*command, "-o", scratch / "driver.so", scratch / "driver.cpp"], check=True)
    return scratch / "driver.so"


class Kernels:
    """The kernels of one file, run on arrays one at a time."""

    def __init__(self, source, scratch, capability=80):
        self.device = Device(driver(source, scratch, capability))
        self.module = self.device.load(b"any")

    def run(self, launches, arrays, written=(-1,)):
        """One kernel on arrays in the order of its arguments; those at ``written`` are read back."""
        pointers = [self.device.allocate(array.nbytes) for array in arrays]
        for pointer, array in zip(pointers, arrays, strict=True):
            self.device.upload(pointer, np.ascontiguousarray(array))
        self._launch(launches, pointers)
        for place in written:
            self.device.download(arrays[place], pointers[place])
        for pointer in pointers:
            self.device.free(pointer)

    def run_program(self, program, launches, inputs):
        """The first output of a program, every buffer in device memory of its own."""
        pointers = {buffer: self.device.allocate(buffer.bytes) for buffer in program.buffers()}
        for buffer in program.constants():
            self.device.upload(pointers[buffer], np.ascontiguousarray(buffer.data))
        for port, array in zip(program.inputs, inputs, strict=True):
            self.device.upload(pointers[port.buffer], np.ascontiguousarray(array))
        for step in program.steps:
            self._launch(
                launches[kernel_name(step.kernel, ISAS["cuda"])], [pointers[b] for b in step.buffers]
            )
        port = program.outputs[0]
        found = np.zeros(port.shape, port.dtype)
        self.device.download(found, pointers[port.buffer])
        for pointer in pointers.values():
            self.device.free(pointer)
        return found

    def _launch(self, launches, pointers):
        for launch in launches:
            parameters = Parameters([pointers[i] for i in launch["arguments"]])
            shape = launch["blocks"], launch["threads"]
            self.device.launch(self.device.function(self.module, launch["symbol"]), shape, parameters)
