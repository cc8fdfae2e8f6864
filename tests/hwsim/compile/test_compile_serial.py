"""Bit-serial products against int64 numpy and the torch operators, tolerance 0."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")

sys.path.insert(0, str(Path(__file__).parent))

from test_compile_foreign import run_in_c, written
from test_compile_networks import quantized
from test_compile_product import HOST, runnable
from tvm_ffi import from_dlpack

from hwsim.compile.build import aligned, host_kernel
from hwsim.compile.check import unequal_products
from hwsim.compile.isa import ISAS
from hwsim.compile.lower import lower
from hwsim.compile.pack import Term, pack_terms
from hwsim.compile.product import Product
from hwsim.compile.proof import integer_proof
from hwsim.compile.serial import BitPlanes, weight_planes, words

SERIAL = [isa for isa in runnable() if isa.serial_pairs]


def run(kernel, isa, arrays):
    """All arrays after the call."""
    copies = [aligned(a) for a in arrays]
    host_kernel(kernel, isa)(*[from_dlpack(c) for c in copies])
    return copies


def planes_of(codes, bits, isa, sums):
    """Words of the planes of codes (m, k), and minus the sums of the rows."""
    (m, k), pitch = codes.shape, -(-codes.shape[1] // 4) * 4
    padded = np.full((m, pitch), 255, np.uint8)
    padded[:, :k] = codes
    kernel = BitPlanes(m, k, pitch, padded.size, 0, bits, sums)
    return run(
        kernel,
        isa,
        [padded.ravel(), *[np.zeros(size, dtype) for _, size, dtype in kernel.arguments(isa)[1:]]],
    )[1:]


def product(codes, bits, terms, rows, zero, isa, planes):
    """Bare int32 accumulators of codes (m, k) of ``bits`` times the stacked terms of ``planes`` planes."""
    (m, k), n = codes.shape, len(terms[0])
    stacked = [Term(t, r, np.ones(len(t), np.float32)) for t, r in zip(terms, rows, strict=True)]
    packed = pack_terms(stacked, n, 1, isa.serial(), isa.tile_vectors, planes)
    *sums, activations = planes_of(codes, bits, isa, planes == 1)
    kernel = Product(((m, bits * words(k), n),), (), k, packed.sections, n, (activations.size, m * n),
                     out_dtype="int32", raw=True, packed_bits=planes, serial=bits, row_terms=planes == 1,
                     activation_dtype="int32", permuted=packed.permuted)  # fmt: skip
    table = [] if kernel.direct else [packed.table]
    moves = [] if packed.lanes is None else [packed.lanes, packed.later_scale]
    inputs = [activations, packed.weights, packed.initial(zero, isa.serial()), *table, *moves, *sums]
    return run(kernel, isa, [*inputs, np.zeros(m * n, np.int32)])[-1].reshape(m, n)


def weights(rng, shape, planes):
    return (rng.integers(0, 2, shape) * 2 - 1 if planes == 1 else rng.integers(-2, 2, shape)).astype(np.int8)


@pytest.mark.parametrize("isa", SERIAL, ids=lambda i: i.name)
@pytest.mark.parametrize("columns", [1, 31, 32, 33, 200])
def test_planes_hold_every_bit(isa, columns):
    rng = np.random.default_rng(columns)
    codes = rng.integers(0, 16, (3, columns)).astype(np.uint8)
    sums, found = planes_of(codes, 4, isa, True)
    assert np.array_equal(sums, -codes.sum(1, dtype=np.int64))
    stored = found.view(np.uint32).reshape(3, 4, -1)
    for k in range(columns):
        assert np.array_equal(stored[:, :, k // 32] >> (k % 32) & 1, codes[:, k, None] >> np.arange(4) & 1)


@pytest.mark.parametrize("isa", SERIAL, ids=lambda i: i.name)
@pytest.mark.parametrize(("planes", "bits"), [(1, 2), (1, 3), (1, 4), (2, 2)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 768, 64), (13, 200, 131)])
def test_equals_int64(isa, planes, bits, shape):
    m, k, n = shape
    rng = np.random.default_rng(m * k + n + bits)
    codes, w = rng.integers(0, 1 << bits, (m, k)).astype(np.uint8), weights(rng, (n, k), planes)
    expected = (codes.astype(np.int64) - 2) @ w.T.astype(np.int64)
    assert np.array_equal(product(codes, bits, [w], [np.arange(n)], 2, isa, planes), expected)


@pytest.mark.parametrize("isa", SERIAL, ids=lambda i: i.name)
@pytest.mark.parametrize(("planes", "code"), [(1, -1), (1, 1), (2, -2), (2, 1)])
def test_extremes(isa, planes, code):
    codes, w = np.full((7, 3072), 3, np.uint8), np.full((33, 3072), code, np.int8)
    found = product(codes, 2, [w], [np.arange(33)], 0, isa, planes)
    assert np.array_equal(found, np.full((7, 33), 3 * code * 3072))


@pytest.mark.parametrize("isa", SERIAL, ids=lambda i: i.name)
@pytest.mark.parametrize("planes", [1, 2])
def test_expansion_terms_add_in_registers(isa, planes):
    """A dense first term, half of the rows in the second (packed in windows where lanes permute), 16 in the third."""
    rng = np.random.default_rng(planes)
    m, k, n = 8, 56, 100
    codes = rng.integers(0, 4, (m, k)).astype(np.uint8)
    rows = [np.arange(n), np.sort(rng.permutation(n)[: n // 2]), np.arange(16, 32)]
    terms = [weights(rng, (len(r), k), planes) for r in rows]
    expected = np.zeros((m, n), np.int64)
    for r, t in zip(rows, terms, strict=True):
        expected[:, r] += (codes.astype(np.int64) - 3) @ t.T.astype(np.int64)
    found = product(codes, 2, terms, rows, 3, isa, planes)
    if isa.permutes or planes == 2:
        assert np.array_equal(found, expected)
    else:  # rows that a term does not have are 0 in a plane of signs; their scale is 0 where it matters
        whole = np.isin(np.arange(n), rows[1]) & np.isin(np.arange(n), rows[2])
        assert np.array_equal(found[:, whole], expected[:, whole])


def test_chosen_where_it_is_faster():
    one, two, three = (np.array(c, np.int8) for c in ([[-1, 1]], [[-1, 0, 1]], [[-3, 3]]))
    popcnt, vnni = ISAS["x86-vnni512-popcnt"], ISAS["x86-vnni512"]
    assert [weight_planes(popcnt, [one], bits) for bits in (2, 4, 5)] == [1, 1, 0]
    assert [weight_planes(popcnt, [one, two], bits) for bits in (2, 3)] == [2, 0]
    assert weight_planes(popcnt, [three], 2) == weight_planes(vnni, [one], 2) == 0


@pytest.mark.parametrize(
    ("isa", "scheme"),
    [*((isa, "w1a2.o2.g50") for isa in SERIAL), (SERIAL[-1], "w2a2.o2.g50"), (SERIAL[-1], "w1a4.o2.c50")],
    ids=lambda value: getattr(value, "name", value),
)
def test_networks_use_it_and_stay_bit_equal(tmp_path, monkeypatch, isa, scheme):
    monkeypatch.setenv("HWSIM_CACHE", str(tmp_path))
    model, _, _ = quantized("transformer", scheme)
    module = model.integer()
    program = lower(module, isa)
    serial = [k for k in program.kernels() if isinstance(k, Product) and k.serial]
    assert serial
    assert any(isinstance(k, BitPlanes) for k in program.kernels())
    assert integer_proof(program, isa).share == 1.0
    count, wrong = unequal_products(module, isa)
    assert count > 8 and wrong == []


@pytest.mark.parametrize("name", ["c", "aarch64-generic", "riscv64-v"])
def test_foreign_machines_are_bit_equal(tmp_path, name):
    """One linear layer of the small network, cut out with its quantizer."""
    import torch

    from hwsim.compile.check import single_products, spread_inputs

    isa = ISAS[name]
    model, _, _ = quantized("transformer", "w1a2.o2.g50")
    single = dict(single_products(model.integer()))["blocks.0.up"]
    inputs = [x.numpy() for x in spread_inputs(single, torch.Generator().manual_seed(0))]
    program = lower(single, isa)
    assert any(isinstance(k, Product) and k.serial for k in program.kernels())
    written(program, isa, tmp_path / "art")
    if name == "c":
        options = ["-std=c11", "-O1", "-shared", "-fPIC", "-ffp-contract=off"]
        source, library = tmp_path / "art" / "kernels.c", tmp_path / "art" / "module.so"
        subprocess.run(["cc", *options, "-o", library, source, "-lm"], check=True)
        if shutil.which("arm-none-eabi-gcc"):
            board = ["-mcpu=cortex-m4", "-mthumb", "-O2", "-c", "-o", tmp_path / "kernels.o"]
            subprocess.run(["arm-none-eabi-gcc", *board, source], check=True)
        isa = HOST
    found = np.frombuffer(run_in_c(tmp_path / "art", isa, inputs, tmp_path), np.float32)
    expected = single(*map(torch.from_numpy, inputs))[0].numpy()
    assert np.array_equal(found, expected.ravel())
