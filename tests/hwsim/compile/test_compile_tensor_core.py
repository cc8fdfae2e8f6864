"""Products on tensor cores: the CUDA source, inline PTX included, run warp by warp on a CPU against numpy in int64.

`cuda_on_cpu` says what stands in for the device. Every case of a test is in one file of source, compiled once for
each generation: 7.5 multiplies by m8n8k16 without cp.async, 8.0 by m16n8k32 with it and 4 by 4 bits by m16n8k64,
9.0 unpacks 4 bits to bytes.
"""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")

sys.path.insert(0, str(Path(__file__).parent))

from cuda_on_cpu import Kernels

from hwsim.compile import cuda_tensor_core
from hwsim.compile.build import kernel_name
from hwsim.compile.cuda_source import cuda_source
from hwsim.compile.cuda_tensor_core import TILES
from hwsim.compile.expr import leaf, op, quantize
from hwsim.compile.isa import ISAS
from hwsim.compile.operand import PackRight, RowTerms
from hwsim.compile.pack import Term, pack_terms
from hwsim.compile.panels import Operand, sections_for
from hwsim.compile.product import Product

CUDA = ISAS["cuda"]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


@dataclass
class Case:
    """A kernel, its arguments, and what the last one must hold afterwards."""

    kernel: Product
    arrays: list
    expected: np.ndarray


def random_codes(rng, shape, low, high):
    """Integers of the whole range, both ends in one of eight places."""
    codes = rng.integers(low, high + 1, shape)
    ends = rng.choice([low, high], shape)
    return np.where(rng.random(shape) < 0.125, ends, codes)


def packed_terms(terms, rows, channels, run, taps, bits, scales=None):
    """Panels for tensor cores; unit scales unless given."""
    machine = CUDA.dense(run, taps)
    assert machine.dot == "mma"
    scales = scales or [np.ones(len(t), np.float32) for t in terms]
    stacked = [Term(t, r, s) for t, r, s in zip(terms, rows, scales, strict=True)]
    return machine, pack_terms(stacked, channels, taps, machine, machine.tile_vectors, bits)


def gemm(m, n, k, bits=8, activation_bits=8, signed=False, pitch=None, extreme=None, shares=()):
    """Bare int32 accumulators of one matrix times one or several stacked terms."""
    rng, high = np.random.default_rng([m, n, k]), 1 << (bits - 1)
    rows = [np.arange(n), *(np.sort(rng.permutation(n)[:count]) for count in shares)]
    terms = [random_codes(rng, (len(r), k), -high, high - 1).astype(np.int8) for r in rows]
    pitch, zero = pitch or -(-k // 4) * 4, 0 if signed else 3
    low, top = (-128, 127) if signed else (0, (1 << activation_bits) - 1)
    a = random_codes(rng, (m, pitch), low, top)
    if extreme is not None:
        a[:], terms[0][:] = extreme
    machine, packed = packed_terms(terms, rows, n, k, 1, bits)
    a = a.astype(np.int8 if signed else np.uint8)
    product = Product(
        ((m, pitch, n),), (), k, packed.sections, n, (a.size, m * n), packed_bits=bits, out_dtype="int32", raw=True,
        activation_bits=activation_bits, activation_dtype=str(a.dtype), permuted=packed.permuted,
    )  # fmt: skip
    expected = np.zeros((m, n), np.int64)
    for r, term in zip(rows, terms, strict=True):
        expected[:, r] += (a[:, :k].astype(np.int64) - zero) @ term.T.astype(np.int64)
    arrays = [a, packed.weights, packed.initial(zero, machine)]
    arrays += [] if product.direct else [packed.table]
    return Case(product, [*arrays, np.zeros(m * n, np.int32)], expected)


class Compiled:
    """Kernels on the device that stands in."""

    def __init__(self, kernels, scratch, capability=80, source_of=lambda text: text):
        source, self._launches = cuda_source(list(dict.fromkeys(kernels)), CUDA)
        self._kernels = Kernels(source_of(source), scratch, capability)

    def run(self, kernel, arrays, **flags):
        """One kernel."""
        self._kernels.run(self._launches[kernel_name(kernel, CUDA)], arrays, **flags)

    def wrong(self, cases):
        """Shapes of the cases whose result differs in any bit."""
        found = []
        for case in cases:
            case.arrays[-1][:] = 0
            self.run(case.kernel, case.arrays)
            if not np.array_equal(case.arrays[-1].ravel(), case.expected.ravel()):
                found.append(case.kernel.dims)
        return found


@needs_compiler
@pytest.mark.parametrize("tile", TILES, ids=lambda t: f"{t.rows}x{8 * t.panels}")
def test_every_tile_equals_int64(tmp_path, monkeypatch, tile):
    """More than one block along each side, partial ones last, several turns of the ring; either end of warps first."""
    monkeypatch.setattr(cuda_tensor_core, "TILES", (tile,))
    m, n = tile.rows + 7, 8 * tile.panels + 13
    cases = [gemm(m, n, 200), gemm(m, n, 200, 4), gemm(m, n, 200, 2, shares=(n // 2,))]
    device = Compiled([case.kernel for case in cases], tmp_path)
    assert device.wrong(cases) == []
    monkeypatch.setenv("HWSIM_BACKWARDS", "1")
    assert device.wrong(cases) == []


def convolution(images, size, channels, outputs, kernel, stride, joined, bits=8):
    """Implicit GEMM over a channels-last input with a border of one: kernel rows as one run, or every tap alone."""
    rng, high = np.random.default_rng(outputs), 1 << (bits - 1)
    pitch, zero = -(-channels // 4) * 4, 7
    side = size + 2
    x = np.full((images, side, side, pitch), zero, np.uint8)
    x[:, 1:-1, 1:-1] = random_codes(rng, (images, size, size, pitch), 0, 255)
    w = np.zeros((outputs, kernel, kernel, pitch), np.int8)
    w[..., :channels] = random_codes(rng, (outputs, kernel, kernel, channels), -high, high - 1)
    out = (side - kernel) // stride + 1
    if joined:
        run, taps, codes = kernel * pitch, ((kernel, side * pitch),), w.reshape(outputs, -1)
    else:
        run, taps = channels, ((kernel, side * pitch), (kernel, pitch))
        codes = np.ascontiguousarray(w[..., :channels]).reshape(outputs, -1)
    count = kernel if joined else kernel * kernel
    machine, packed = packed_terms([codes], [np.arange(outputs)], outputs, run, count, bits)
    dims = (
        (images, side * side * pitch, out * out * outputs), (out, stride * side * pitch, out * outputs),
        (out, stride * pitch, outputs),
    )  # fmt: skip
    sizes = (x.size, images * out * out * outputs)
    product = Product(
        dims, taps, run, packed.sections, outputs, sizes, packed_bits=bits, out_dtype="int32", raw=True,
    )  # fmt: skip
    expected = np.zeros((images, out, out, outputs), np.int64)
    for u in range(kernel):
        for v in range(kernel):
            part = x[:, u : u + stride * out : stride, v : v + stride * out : stride].astype(np.int64) - zero
            expected += part[:, :out, :out] @ w[:, u, v].T.astype(np.int64)
    arrays = [x, packed.weights, packed.initial(zero, machine), np.zeros(sizes[1], np.int32)]
    return Case(product, arrays, expected)


def heads(transposed, m=21, k=50, n=19, count=3):
    """Codes of two activations with heads side by side in the left one, and the kernels of their product."""
    rng, pitch = np.random.default_rng(5), -(-k // 4) * 4
    a = random_codes(rng, (m, count, pitch), 0, 255).astype(np.uint8)
    shape, steps = ((count, k, 20), (1, 20)) if transposed else ((count, n, pitch), (pitch, 1))
    b = random_codes(rng, shape, 0, 255).astype(np.uint8)
    sections = sections_for(n, 1, CUDA.dense(k).tile_vectors)
    product = Product(
        ((m, count * pitch, n),), (), k, sections, n, (a.size, count * m * n), batch=((count, pitch, m * n),),
        out_dtype="int32", raw=True, row_terms=True,
    )  # fmt: skip
    packing = PackRight(count, n, k, sections, b.size, b[0].size, steps)
    return a, b, (packing, RowTerms(m * count, k, pitch, a.size), product)


@pytest.fixture(scope="module")
def cases():
    """By kind; a gemm for every instruction and width, every alignment of rows, and the ends of both ranges."""
    return {
        "gemm": [
            gemm(1, 1, 32), gemm(37, 70, 100), gemm(16, 64, 64), gemm(19, 41, 37, pitch=37), gemm(9, 20, 37, pitch=38),
            gemm(5, 24, 33, signed=True), gemm(33, 66, 130, signed=True), gemm(20, 33, 64, 4), gemm(18, 9, 150, 4, 4),
            gemm(40, 72, 64, 4, 4), gemm(17, 40, 260, 2), gemm(3, 5, 514, 8, pitch=528), gemm(65, 130, 192, 4, 4),
            gemm(21, 35, 768, extreme=(255, -128)), gemm(21, 35, 96, signed=True, extreme=(-128, -128)),
            gemm(21, 35, 128, 4, 4, extreme=(15, -8)), gemm(21, 35, 130, 4, extreme=(255, -8)),
        ],
        "expansion": [
            gemm(35, 100, 96, 4, shares=(50,)), gemm(20, 64, 64, 4, shares=(64, 16)),
            gemm(9, 40, 64, 2, shares=(20, 9, 3)), gemm(6, 12, 64, 4, shares=(12,) * 9),
        ],
        "convolution": [
            convolution(2, 7, 16, 24, 3, 1, True), convolution(1, 9, 3, 10, 7, 2, True),
            convolution(1, 5, 24, 9, 3, 2, False), convolution(1, 6, 32, 17, 1, 1, True, 4),
            convolution(2, 4, 33, 8, 3, 1, False, 4),
        ],
    }  # fmt: skip


@pytest.fixture(scope="module", params=[75, 80, 90])
def device(request, cases, tmp_path_factory):
    """A device of each generation that multiplies in its own way."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    kernels = [case.kernel for kind in cases.values() for case in kind]
    kernels += [kernel for transposed in (False, True) for kernel in heads(transposed)[2]]
    return Compiled(kernels, tmp_path_factory.mktemp("device"), request.param)


@pytest.mark.parametrize("kind", ["gemm", "expansion", "convolution"])
def test_equals_int64(device, cases, kind):
    assert device.wrong(cases[kind]) == []


def test_the_cases_have_up_to_ten_terms(cases):
    assert {terms for c in cases["expansion"] for s in c.kernel.sections for terms in s.pattern} >= {
        1,
        2,
        3,
        10,
    }


@pytest.mark.parametrize("transposed", [False, True])
def test_product_of_two_activations(device, transposed):
    """The right operand is packed on the device, from rows or columns, the zero points are taken out there."""
    (a, b, (packing, sums, product)), (za, zb), (m, k, n) = heads(transposed), (11, 140), (21, 50, 19)
    zeros = np.array([za, -(zb - 128)], np.int32)
    initial, panels = (np.zeros(size, dtype) for _, size, dtype in packing.arguments(CUDA)[2:])
    terms, found = np.zeros(m * 3, np.int32), np.zeros(3 * m * n, np.int32)
    device.run(packing, [b, zeros, initial, panels], written=(2, 3))
    device.run(sums, [a, zeros, terms])
    by_head = np.ascontiguousarray(terms.reshape(m, 3).T)
    device.run(product, [a, panels, initial, by_head, found])
    right = b[:, :, :n] if transposed else b[:, :, :k].transpose(0, 2, 1)
    expected = (a[:, :, :k].transpose(1, 0, 2).astype(np.int64) - za) @ (right.astype(np.int64) - zb)
    assert np.array_equal(found.reshape(3, m, n), expected)


@needs_compiler
def test_fused_epilogue(tmp_path):
    """Rescaling of two terms, bias, residual, ReLU and the codes of the next layer, in float32 as numpy rounds it."""
    m, n, k, rng = 37, 45, 64, np.random.default_rng(1)
    rows = [np.arange(n), np.sort(rng.permutation(n)[:20])]
    terms = [random_codes(rng, (len(r), k), -8, 7).astype(np.int8) for r in rows]
    scales = [rng.uniform(0.001, 0.02, len(r)).astype(np.float32) for r in rows]
    a = random_codes(rng, (m, k), 0, 255).astype(np.uint8)
    bias, residual = (rng.normal(size=size).astype(np.float32) for size in (n, (m, n)))
    settings = np.array([0.125, 4], np.float32)
    machine, packed = packed_terms(terms, rows, n, k, 1, 4, scales)
    tree = op("max", op("add", op("add", leaf(0), leaf(1)), leaf(2)), 0.0)
    operands = (
        Operand(n, 0, (), (0,), 1),
        Operand(m * n, 0, (), (n,), 1),
        *(Operand(2, i, (), (0,), 0) for i in (0, 1)),
    )
    product = Product(
        ((m, k, n),), (), k, packed.sections, n, (m * k, m * n), packed_bits=4, out_dtype="uint8",
        epilogue=quantize(tree, leaf(3), leaf(4), 0, 255), operands=operands,
    )  # fmt: skip
    total = np.zeros((m, n), np.float32)
    for r, term, scale in zip(rows, terms, scales, strict=True):
        accumulators = (a.astype(np.int64) - 3) @ term.T.astype(np.int64)
        total[:, r] = total[:, r] + accumulators.astype(np.float32) * scale
    levels = np.rint(np.maximum(total + bias + residual, np.float32(0)) / settings[0]) + settings[1]
    expected = np.clip(levels, 0, 255).astype(np.uint8)
    assert len(np.unique(expected)) > 50
    arrays = [
        a,
        packed.weights,
        packed.initial(3, machine),
        packed.scales,
        packed.table,
        bias,
        residual,
        settings,
        settings,
    ]
    case = Case(product, [*arrays, np.zeros(m * n, np.uint8)], expected)
    assert Compiled([product], tmp_path).wrong([case]) == []


@needs_compiler
@pytest.mark.parametrize(
    "line",
    [
        "    __syncthreads(); /* this stage",
        "    hwsim_wait<STAGES - 2>();",
        "    hwsim_commit();\n    multiply",
    ],
)
def test_what_stands_in_notices_a_missing_line(tmp_path, monkeypatch, line):
    """Without one of its barriers or waits the kernel gives wrong results here too."""
    monkeypatch.setattr(cuda_tensor_core, "TILES", (TILES[-2],))
    monkeypatch.setenv("HWSIM_BACKWARDS", "1")
    case = gemm(70, 70, 512)

    def without(source):
        assert source.count(line) == 1
        first = line.split(";")[0] + ";"
        return source.replace(line, line.replace(first, ""))

    assert Compiled([case.kernel], tmp_path, source_of=without).wrong([case])


def test_dense_products_go_to_tensor_cores():
    """At least 32 deep, and steps of K at least half full; wide codes and floats keep their own form."""
    assert [CUDA.dense(*shape).dot for shape in ((32,), (31,), (16, 2), (15, 3), (8, 9), (33,), (28, 7), (768,))] == [
        "mma", "dp4a", "mma", "dp4a", "dp4a", "mma", "mma", "mma"
    ]  # fmt: skip
    product = gemm(4, 8, 64).kernel
    assert product.machine(CUDA).dot == "mma"
    assert replace(product, activation_dtype="int32").machine(CUDA).dot == "mul"
    assert replace(product, activation_dtype="float32").machine(CUDA).dot == "fma"
    assert product.machine(ISAS["x86-avx2"]).dot == "avx2"


def ptx(source, architecture, scratch):
    """PTX of the file for one architecture, after its assembler took it."""
    (scratch / "kernels.cu").write_text(source)
    command = ["nvcc", "-w", f"-arch=sm_{architecture}", "--keep", "--keep-dir", scratch, "--cubin"]
    subprocess.run([*command, "-o", scratch / "kernels.cubin", scratch / "kernels.cu"], check=True)
    assert (scratch / "kernels.cubin").stat().st_size > 0
    return next(scratch.glob("*.ptx")).read_text()


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed (CUDA toolkit)")
@pytest.mark.parametrize(
    ("architecture", "instructions"),
    [
        (75, {"m8n8k16.u8", "m8n8k16.s8", "m8n8k32.u4"}),
        (80, {"m16n8k32.u8", "m16n8k32.s8", "m16n8k64.u4"}),
        (86, {"m16n8k32.u8", "m16n8k32.s8", "m16n8k64.u4"}),
        (87, {"m16n8k32.u8", "m16n8k32.s8", "m16n8k64.u4"}),
        (89, {"m16n8k32.u8", "m16n8k32.s8", "m16n8k64.u4"}),
        (90, {"m16n8k32.u8", "m16n8k32.s8"}),
    ],
)
def test_nvcc_compiles_for(tmp_path, architecture, instructions):
    """Compiled and assembled, not run: each generation has its own instructions, and cp.async from 8.0 on."""
    products = [gemm(9, 70, 100).kernel, gemm(9, 70, 64, 4, 4).kernel, gemm(9, 70, 64, signed=True).kernel]
    text = ptx(cuda_source(products, CUDA)[0], architecture, tmp_path)
    found = re.findall(r"mma\.sync\.aligned\.(m\d+n8k\d+)\.row\.col\.s32\.(u8|s8|u4)\.s[48]\.s32", text)
    assert {f"{shape}.{kind}" for shape, kind in found} == instructions
    assert ("cp.async" in text) == (architecture >= 80)
    assert "ldmatrix" in text
    assert ".local" not in text  # accumulators and fragments stay in registers
