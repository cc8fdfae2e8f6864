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

pytest.importorskip("tvm")

sys.path.insert(0, str(Path(__file__).parent))

from test_compile_networks import quantized
from test_compile_product import assert_terms_add_up, gemm

from hwsim.compile import build, tiles
from hwsim.compile.builder import tirx
from hwsim.compile.check import unequal_products
from hwsim.compile.isa import ISAS, host_isa
from hwsim.compile.lower import lower
from hwsim.compile.product import Product
from hwsim.compile.proof import integer_proof
from hwsim.errors import UserError
from hwsim.runtime import verify

AMX = ISAS["x86-amx"]
EMULATED = replace(AMX, name="x86-emulated-tiles", target=ISAS["x86-vnni512"].target)
needs_vnni = pytest.mark.skipif(
    not host_isa().name.startswith("x86-vnni512"), reason="the rest of the code is AVX512"
)


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
    assert counter.value == (m // 16) * (k // 64) * -(-n // 16)


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
