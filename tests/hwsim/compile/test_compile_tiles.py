"""Products on tile registers: the instructions that are assembled, and the same code on emulated registers."""

import ctypes
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tvm")

sys.path.insert(0, str(Path(__file__).parent))

from test_compile_networks import quantized
from test_compile_product import assert_terms_add_up, gemm

from hwsim.compile import build, tiles
from hwsim.compile.artifact import write_artifact
from hwsim.compile.builder import tirx
from hwsim.compile.check import unequal_products
from hwsim.compile.isa import ISAS, host_isa
from hwsim.compile.lower import lower
from hwsim.compile.product import Product
from hwsim.compile.proof import integer_proof
from hwsim.errors import UserError
from hwsim.runtime import load, verify

AMX = ISAS["x86-amx"]
EMULATED = replace(AMX, name="x86-emulated-tiles", target=ISAS["x86-vnni512"].target)
needs_vnni = pytest.mark.skipif(host_isa().dot != "vnni512", reason="the rest of the code is AVX512")
needs_tiles = pytest.mark.skipif(host_isa() != AMX, reason="this machine has no tile registers")


@pytest.fixture(scope="session")
def registers(tmp_path_factory):
    """Eight tile registers in C, known to this process: once, for of two copies the first would be called."""
    if shutil.which("cc") is None:
        pytest.skip("cc is not installed")
    library = tmp_path_factory.mktemp("tiles") / "tiles.so"
    source = Path(__file__).with_name("tile_registers.c")
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source], check=True)
    return ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


@pytest.fixture
def emulated(registers, monkeypatch):
    """Every instruction becomes a call of the function that is named like it."""

    def call(code, name, *arguments):
        given = [tirx.const(a, "int32") if isinstance(a, int) else a for a in arguments]
        code.emit(tirx.Evaluate(tirx.call_extern("int32", f"emulated_{name}", *given)))

    monkeypatch.setattr(tiles, "instruction", call)
    build.host_kernel.cache_clear()
    yield EMULATED
    build.host_kernel.cache_clear()


@needs_vnni
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(
    "shape", [(16, 64, 16), (32, 128, 64), (55, 200, 100), (100, 67, 131), (31, 768, 48)]
)
def test_equals_int64(registers, emulated, bits, shape):
    m, k, n = shape
    rng = np.random.default_rng(m * k + n + bits)
    a = rng.integers(0, 256, (m, k), dtype=np.uint8)
    w = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), (n, k)).astype(np.int8)
    expected = (a.astype(np.int64) - 119) @ w.T.astype(np.int64)
    counter = ctypes.c_int.in_dll(registers, "products")
    counter.value = 0
    assert np.array_equal(gemm(a, [w], [np.arange(n)], 119, emulated), expected)
    assert counter.value == -(-m // 16) * (k // 64) * -(-n // 16)


@needs_vnni
@pytest.mark.parametrize("code", [-128, 127])
def test_extremes_do_not_saturate(emulated, code):
    a, w = np.full((33, 3072), 255, np.uint8), np.full((33, 3072), code, np.int8)
    assert np.array_equal(gemm(a, [w], [np.arange(33)], 0, emulated), np.full((33, 33), 255 * code * 3072))


@needs_vnni
def test_expansion_terms(emulated):
    """Later terms in windows: sums of one row meet in the epilogue as everywhere."""
    assert_terms_add_up(100, emulated)


@needs_vnni
def test_network_is_bit_equal(emulated, tmp_path, monkeypatch):
    """Every product of a network with attention, tiles of rows and what is left of them."""
    monkeypatch.setenv("HWSIM_CACHE", str(tmp_path))
    model, _, _ = quantized("wide_transformer", "w4a8.o2.g50")
    count, wrong = unequal_products(model.integer(), emulated)
    assert count > 8 and wrong == []


@needs_vnni
@pytest.mark.parametrize("scheme", ["w8a8", "w4a8.o2.g50"])
def test_convolutions_are_bit_equal(registers, emulated, tmp_path, monkeypatch, scheme):
    """Rows with places between them that are no outputs; the products of all but the stem are made on tiles."""
    monkeypatch.setenv("HWSIM_CACHE", str(tmp_path))
    model, _, _ = quantized("widths", scheme)
    counter = ctypes.c_int.in_dll(registers, "products")
    counter.value = 0
    count, wrong = unequal_products(model.integer(), emulated)
    assert count == 7 and wrong == []
    assert counter.value > 1000


@needs_tiles
@pytest.mark.parametrize(
    ("network", "scheme", "units"),
    [("widths", "w8a8", 2), ("widths", "w4a8.o2.g50", 1), ("wide_transformer", "w2a8.o2", 2)],
)
def test_the_real_registers_are_bit_equal(tmp_path, monkeypatch, network, scheme, units):
    """What is emulated elsewhere, on a processor that has them: single products, and the whole artifact."""
    monkeypatch.setenv("HWSIM_CACHE", str(tmp_path))
    module, inputs, _ = quantized(network, scheme)
    assert unequal_products(module.integer(), AMX)[1] == []
    program = lower(module.integer(), AMX, units=units)
    assert integer_proof(program, AMX).share == 1.0
    write_artifact(program, AMX, tmp_path / "tiles", threads=units)
    write_artifact(lower(module.integer(), ISAS["x86-vnni512"]), ISAS["x86-vnni512"], tmp_path / "plain")
    arrays = [x.numpy() for x in inputs]
    ours, plain = (load(tmp_path / name)(*arrays)["output0"] for name in ("tiles", "plain"))
    assert np.array_equal(ours, plain)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_grid_counts_every_row_once(data):
    """Places of rows, against the strides themselves; gaps are exactly what no row stands on."""
    extents = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    widths = [data.draw(st.integers(extent, extent + 4)) for extent in extents[1:]]
    strides = [data.draw(st.integers(1, 200))]
    for width in widths[::-1]:
        strides.insert(0, strides[0] * width)
    grid = tiles.RowGrid.of(tuple((e, s, 0) for e, s in zip(extents, strides, strict=True)))
    starts = [int(np.dot(where, strides)) for where in np.ndindex(*extents)]
    assert grid is not None and grid.places(len(starts)) == starts[-1] // strides[-1] + 1
    assert grid.pitch * strides[-1] == strides[0]
    found = [
        place * strides[-1]
        for place in range(grid.places(len(starts)))
        if all(c < extents[axis] for axis, c in enumerate(_digits(place, widths)) if axis in grid.gaps)
    ]
    assert found == starts


def _digits(number, widths):
    found = []
    for width in widths[::-1]:
        number, digit = divmod(number, width)
        found.insert(0, digit)
    return [number, *found]


def test_strides_without_a_common_measure_have_no_grid():
    assert tiles.RowGrid.of(((4, 100, 0), (5, 30, 0))) is None
    assert (
        tiles.RowGrid.of(((4, 100, 0), (5, 25, 0))) is None
    )  # the fifth would stand on the next row's first
    assert tiles.RowGrid.of(((4, 0, 0), (5, 0, 0))) is None


def test_instructions_are_assembled(tmp_path, monkeypatch):
    """The object for the real machine multiplies by tdpbusd, and the proof sees integers."""
    monkeypatch.setenv("HWSIM_CACHE", str(tmp_path))
    if shutil.which("objdump") is None:
        pytest.skip("objdump is not installed")
    model, _, _ = quantized("wide_transformer", "w8a8")
    program = lower(model.integer(), AMX)
    assert integer_proof(program, AMX).share == 1.0
    tall = next(k for k in program.kernels() if isinstance(k, Product) and k.rows >= 32 and len(k.dims) == 1)
    built = build.kernel_object(tall, AMX, tmp_path)
    text = subprocess.run(["objdump", "-d", built], capture_output=True, text=True, check=True).stdout
    for name in ("ldtilecfg", "tilezero", "tileloadd", "tdpbusd", "tilestored", "tilerelease"):
        assert name in text, name


def test_a_system_without_tile_registers_says_so(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(syscall=lambda *arguments: -1))
    verify.ask_for_tiles({"machine": {"features": ["avx512_vnni"]}})
    with pytest.raises(UserError, match=r"tile registers.*--isa host"):
        verify.ask_for_tiles({"machine": {"features": ["amx_tile"]}})
