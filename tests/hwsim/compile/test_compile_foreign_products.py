"""Bare products of every foreign machine under its emulator: int32 sums against int64 numpy, tolerance 0."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")
import torch

sys.path.insert(0, str(Path(__file__).parent))

from test_compile_foreign import FOREIGN, run_in_c, written
from test_compile_networks import quantized

from hwsim.compile.check import single_products, spread_inputs
from hwsim.compile.isa import ISAS
from hwsim.compile.lower import lower
from hwsim.compile.pack import Term, pack_terms
from hwsim.compile.product import Product
from hwsim.compile.program import Buffer, Port, Program, Step, constant

CASES = ((1, 1, 1, 8), (2, 8, 4, 8), (5, 37, 31, 8), (5, 37, 31, 2), (7, 64, 72, 4), (8, 16, 8, 4), (13, 200, 19, 2),
         (13, 200, 19, 8))  # fmt: skip


def add(program, isa, codes, terms, rows, zero):
    """One product of codes (m, k) and stacked terms as a step of its own, its sums an output; returns int64."""
    (m, k), n, name = codes.shape, len(terms[0]), f"p{len(program.steps)}"
    pitch = -(-k // 4) * 4
    padded = np.full((m, pitch), 7, np.uint8)
    padded[:, :k] = codes
    stacked = [Term(t, r, np.ones(len(t), np.float32)) for t, r in zip(terms, rows, strict=True)]
    machine = isa.dense(k)
    packed = pack_terms(stacked, n, 1, machine, machine.tile_vectors)
    product = Product(((m, pitch, n),), (), k, packed.sections, n, (padded.size, m * n), out_dtype="int32", raw=True,
                      packed_bits=packed.packed_bits, permuted=packed.permuted)  # fmt: skip
    arrays = [padded, packed.weights, packed.initial(zero, machine)]
    arrays += [] if product.direct else [packed.table]
    out = Buffer(f"{name}.out", m * n, "int32", "work")
    buffers = [constant(f"{name}.{index}", array) for index, array in enumerate(arrays)]
    program.steps.append(Step(product, (*buffers, out), name, (len(buffers),), m * k * n))
    program.outputs.append(Port(name, (m, n), "int32", out))
    expected = np.zeros((m, n), np.int64)
    for r, t in zip(rows, terms, strict=True):
        expected[:, r] += (codes.astype(np.int64) - zero) @ t.T.astype(np.int64)
    return expected


@pytest.mark.parametrize("name", FOREIGN)
def test_products_equal_int64(tmp_path, name):
    """Random shapes and widths, the extremes of every operand, and terms that add in registers."""
    isa, program, rng, expected = ISAS[name], Program(), np.random.default_rng(0), []
    for m, k, n, bits in CASES:
        codes = rng.integers(0, 256, (m, k), dtype=np.uint8)
        w = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), (n, k)).astype(np.int8)
        expected.append(add(program, isa, codes, [w], [np.arange(n)], 119))
    for code in (-128, 127):
        codes, w = np.full((3, 3072), 255, np.uint8), np.full((9, 3072), code, np.int8)
        expected.append(add(program, isa, codes, [w], [np.arange(9)], 0))
    rows = [np.arange(50), np.sort(rng.permutation(50)[:25]), np.arange(16, 32)]
    terms = [rng.integers(-8, 8, (len(r), 56)).astype(np.int8) for r in rows]
    expected.append(add(program, isa, rng.integers(0, 256, (9, 56), dtype=np.uint8), terms, rows, 3))
    written(program, isa, tmp_path / "art")
    found = np.frombuffer(run_in_c(tmp_path / "art", isa, [], tmp_path), np.int32)
    assert np.array_equal(found, np.concatenate([e.ravel() for e in expected]))


def test_attention_of_i8mm_equals_torch(tmp_path):
    """Both products of two activations: their right operands are packed at run time, by rows and by columns."""
    isa = ISAS["aarch64-i8mm"]
    model, _, _ = quantized("wide_transformer", "w8a8")
    generator, count = torch.Generator().manual_seed(0), 0
    for name, single in single_products(model.integer()):
        if name.startswith("blocks.0") and any("int_matmul" in str(n.target) for n in single.graph.nodes):
            inputs = spread_inputs(single, generator)
            written(lower(single, isa), isa, tmp_path / name)
            raw = run_in_c(tmp_path / name, isa, [x.numpy() for x in inputs], tmp_path)
            assert np.array_equal(np.frombuffer(raw, np.float32), single(*inputs)[0].numpy().ravel()), name
            count += 1
    assert count == 2


def test_i8mm_multiplies_by_its_matrix_instruction(tmp_path):
    if shutil.which("aarch64-linux-gnu-objdump") is None:
        pytest.skip("aarch64-linux-gnu-objdump is not installed")
    isa, program = ISAS["aarch64-i8mm"], Program()
    add(program, isa, np.ones((8, 64), np.uint8), [np.ones((16, 64), np.int8)], [np.arange(16)], 0)
    written(program, isa, tmp_path)
    command = ["aarch64-linux-gnu-objdump", "-d", tmp_path / "module.so"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert text.count("usmmla") >= 16  # 4 pairs of rows, 2 vectors of 4 columns, 2 columns each
    assert "usdot" not in text
