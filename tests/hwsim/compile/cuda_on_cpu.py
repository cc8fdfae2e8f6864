"""Runs generated CUDA kernels on the CPU, thread after thread: they share nothing but global memory.

A few definitions turn the file into C++; the launch table of the artifact drives it. This shows what the source
computes. It says nothing of speed, nor of a real device.
"""

import ctypes
import subprocess

import numpy as np

SHIM = r"""
#include <cmath>
#include <cstring>
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(n)
struct Index { int x, y, z; };
static Index blockIdx, threadIdx;
struct int4 { int x, y, z, w; };
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
template <class T> static inline T max(T a, T b) { return a < b ? b : a; }
template <class T> static inline T min(T a, T b) { return b < a ? b : a; }
static inline float __fadd_rn(float a, float b) { volatile float sum = a + b; return sum; }
static inline int __dp4a(int a, int b, int c) {
  signed char x[4], y[4];
  memcpy(x, &a, 4);
  memcpy(y, &b, 4);
  for (int i = 0; i < 4; ++i) c += x[i] * y[i];
  return c;
}
"""
DRIVER = r"""
typedef void (*Kernel)(void*, void*, void*, void*, void*, void*, void*, void*,
                       void*, void*, void*, void*, void*, void*, void*, void*);
extern "C" void launch(Kernel kernel, int blocks, int threads, void** a) {
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
    for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x)
      kernel(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]);
}
"""


def run_cuda_artifact(directory, program, params, inputs, scratch):
    """Outputs of an artifact whose kernels are CUDA source; ``program`` is program.json."""
    source = SHIM + (directory / "kernels.cu").read_text(encoding="utf-8") + DRIVER
    (scratch / "kernels.cpp").write_text(source, encoding="utf-8")
    command = ["g++", "-O1", "-w", "-fno-strict-aliasing", "-ffp-contract=off", "-shared", "-fPIC", "-o"]
    subprocess.run([*command, scratch / "kernels.so", scratch / "kernels.cpp"], check=True)
    library = ctypes.CDLL(str(scratch / "kernels.so"))
    arena = np.zeros(program["arena_bytes"] + 64, np.uint8)
    arrays = []
    for entry in program["buffers"]:
        size = entry["elements"] * np.dtype(entry["dtype"]).itemsize
        base = {"work": arena, "constant": params}.get(entry["kind"], np.zeros(size + 64, np.uint8))
        start = entry.get("offset", 0)
        arrays.append(base[start : start + size])
    for port, value in zip(program["inputs"], inputs, strict=True):
        arrays[port["buffer"]][:] = np.ascontiguousarray(value).view(np.uint8).reshape(-1)
    for name, places, _, _ in program["steps"]:
        for launch in program["launches"][name]:
            pointers = [arrays[places[i]].ctypes.data for i in launch["arguments"]]
            arguments = (ctypes.c_void_p * 16)(*pointers)
            kernel = ctypes.cast(getattr(library, launch["symbol"]), ctypes.c_void_p)
            library.launch(kernel, launch["blocks"], launch["threads"], arguments)
    port = program["outputs"][0]
    return arrays[port["buffer"]].view(port["dtype"]).reshape(port["shape"])
