"""The product kernel against int64 numpy, tolerance 0, and its float epilogue against float32 numpy."""

import numpy as np
import pytest

pytest.importorskip("tvm")

from hwsim.compile.build import call_kernel
from hwsim.compile.isa import ISAS, host_isa
from hwsim.compile.pack import Term, pack_terms
from hwsim.compile.product import Product

HOST = host_isa()


def runnable():
    """Machines whose code this host can execute."""
    names = ["x86-generic", "x86-avx2", "x86-vnni512", "x86-vnni512-popcnt", "x86-amx"]
    return [ISAS[n] for n in names[: names.index(HOST.name) + 1]] if HOST.name in names else [HOST]


def gemm(a, terms, rows, zero_point, isa, vectors=None):
    """Bare int32 accumulators of A (M, K) times the stacked terms."""
    m, k = a.shape
    n = terms[0].shape[0]
    stacked = [Term(t, r, np.ones(len(t), np.float32)) for t, r in zip(terms, rows, strict=True)]
    machine = isa.dense(k)
    packed = pack_terms(stacked, n, 1, machine, vectors or machine.tile_vectors)
    pitch = -(-k // 4) * 4
    padded = np.full((m, pitch), 7, np.uint8)
    padded[:, :k] = a
    product = Product(((m, pitch, n),), (), k, packed.sections, n, (m * pitch, m * n), out_dtype="int32", raw=True,
                      permuted=packed.permuted,
                      packed_bits=packed.packed_bits)  # fmt: skip
    out = np.zeros(m * n, np.int32)
    inputs = [padded.ravel(), packed.weights, packed.initial(zero_point, machine)]
    if not product.direct:
        inputs.append(packed.table)
    if packed.lanes is not None:
        inputs += [packed.lanes, packed.later_scale]
    call_kernel(product, isa, [*inputs, out])
    return out.reshape(m, n)


@pytest.mark.parametrize("isa", runnable(), ids=lambda i: i.name)
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 768, 64), (5, 37, 131), (7, 64, 72), (13, 200, 96), (6, 129, 48)]
)
def test_equals_int64(isa, bits, shape):
    m, k, n = shape
    rng = np.random.default_rng(m * k + n + bits)
    a = rng.integers(0, 256, (m, k), dtype=np.uint8)
    w = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), (n, k)).astype(np.int8)
    expected = (a.astype(np.int64) - 119) @ w.T.astype(np.int64)
    assert np.array_equal(gemm(a, [w], [np.arange(n)], 119, isa), expected)


@pytest.mark.parametrize("isa", runnable(), ids=lambda i: i.name)
def test_large_outputs_are_asked_for_ahead(isa):
    """Above what a second-level cache keeps, the kernel asks for the lines of its outputs; the sums stay."""
    (m, k, n), rng = (211, 40, 600), np.random.default_rng(0)
    a = rng.integers(0, 256, (m, k), dtype=np.uint8)
    w = rng.integers(-128, 128, (n, k)).astype(np.int8)
    assert np.array_equal(
        gemm(a, [w], [np.arange(n)], 119, isa), (a.astype(np.int64) - 119) @ w.T.astype(np.int64)
    )
    sections = pack_terms(
        [Term(w, np.arange(n), np.ones(n, np.float32))], n, 1, isa, isa.tile_vectors
    ).sections
    for rows in (m, 8):
        product = Product(
            ((rows, k, n),), (), k, sections, n, (rows * k, rows * n), out_dtype="int32", raw=True
        )
        assert ("llvm.prefetch" in str(product.build("large", isa))) == (isa.prefetches and rows == m)


@pytest.mark.parametrize("isa", runnable(), ids=lambda i: i.name)
@pytest.mark.parametrize("code", [-128, 127])
def test_extremes_do_not_saturate(isa, code):
    a = np.full((7, 3072), 255, np.uint8)
    w = np.full((33, 3072), code, np.int8)
    assert np.array_equal(gemm(a, [w], [np.arange(33)], 0, isa), np.full((7, 33), 255 * code * 3072))


def assert_terms_add_up(n, isa):
    """Three terms, two of them of some rows only, scattered to their columns."""
    rng = np.random.default_rng(n)
    m, k = 40, 136
    a = rng.integers(0, 256, (m, k), dtype=np.uint8)
    rows = [np.arange(n), np.sort(rng.permutation(n)[: n // 2]), np.arange(16, 32)]
    terms = [rng.integers(-8, 8, (len(r), k)).astype(np.int8) for r in rows]
    expected = np.zeros((m, n), np.int64)
    for r, t in zip(rows, terms, strict=True):
        expected[:, r] += (a.astype(np.int64) - 3) @ t.T.astype(np.int64)
    assert np.array_equal(gemm(a, terms, rows, 3, isa), expected)


@pytest.mark.parametrize("isa", runnable(), ids=lambda i: i.name)
@pytest.mark.parametrize("n", [64, 100, 208])
def test_expansion_terms_add_in_registers(isa, n):
    """Unit scales: the sum of all terms, scattered to their rows, equals numpy."""
    assert_terms_add_up(n, isa)
