"""CUDA: the source computes the right bits (run on the CPU, thread by thread) and nvcc accepts it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")

sys.path.insert(0, str(Path(__file__).parent))

from cuda_on_cpu import run_cuda_artifact
from test_compile_networks import quantized

from hwsim.compile import artifact
from hwsim.compile import cuda_source as cuda_files
from hwsim.compile.cuda_source import cuda_source
from hwsim.compile.isa import ISAS
from hwsim.compile.lower import lower
from hwsim.compile.pack import Term, pack_terms
from hwsim.compile.product import Product
from hwsim.compile.proof import integer_proof
from hwsim.errors import UserError

CUDA = ISAS["cuda"]


@pytest.mark.parametrize(("factory", "scheme"), [("cnn", "w4a8.o2.g50"), ("transformer", "w8a8")])
def test_source_computes_the_network(tmp_path, monkeypatch, factory, scheme):
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    monkeypatch.setattr(artifact, "compile_cuda", lambda source: None)
    model, inputs, _ = quantized(factory, scheme)
    module = model.integer()
    program = lower(module, CUDA)
    artifact.write_artifact(program, CUDA, tmp_path / "art")
    document = json.loads((tmp_path / "art" / "program.json").read_text())
    params = np.fromfile(tmp_path / "art" / "params.safetensors", np.uint8)
    found = run_cuda_artifact(tmp_path / "art", document, params, [x.numpy() for x in inputs], tmp_path)
    expected = module(*inputs)[0].numpy()
    if factory == "cnn":
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    else:
        assert np.abs(found - expected).max() <= 0.02 * np.abs(expected).max()
    assert integer_proof(program, CUDA).share == 1.0


def small_product():
    """A packed 4-bit product of odd sizes."""
    w = np.random.default_rng(0).integers(-8, 8, (24, 40)).astype(np.int8)
    packed = pack_terms([Term(w, np.arange(24), np.ones(24, np.float32))], 24, 1, CUDA, CUDA.tile_vectors)
    product = Product(((9, 40, 24),), (), 40, packed.sections, 24, (360, 216), packed_bits=packed.packed_bits)
    return packed, product


def test_nvcc_compiles_a_product(tmp_path):
    """One architecture is enough here; `hwsim compile --isa cuda` makes them all. Compiled, not run."""
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed (CUDA toolkit)")
    packed, product = small_product()
    source, launches = cuda_source([product], CUDA)
    (tmp_path / "kernels.cu").write_text(source)
    command = ["nvcc", "-arch=sm_80", "--cubin", "-o", tmp_path / "kernels.cubin", tmp_path / "kernels.cu"]
    subprocess.run(command, check=True)
    cubin = (tmp_path / "kernels.cubin").read_bytes()
    assert all(launch["symbol"].encode() in cubin for launch in next(iter(launches.values())))
    assert packed.packed_bits == 4


def test_nvrtc_compiles_a_product():
    """Where its wheel or a CUDA installation is at hand; PTX names the kernels."""
    library = cuda_files._nvrtc()
    if library is None:
        pytest.skip("NVRTC is not installed (pip install nvidia-cuda-nvrtc-cu12)")
    source, launches = cuda_source([small_product()[1]], CUDA)
    text = cuda_files._by_nvrtc(library, source).decode()
    assert all(f".entry {launch['symbol']}(" in text for launch in next(iter(launches.values())))
    with pytest.raises(UserError, match="NVRTC"):
        cuda_files._by_nvrtc(library, "this is not C")
