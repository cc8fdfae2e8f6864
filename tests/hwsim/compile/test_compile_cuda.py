"""CUDA: artifacts run through the driver (a CPU in its place), every product has the right bits, nvcc accepts them."""

import ctypes.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")
import torch

sys.path.insert(0, str(Path(__file__).parent))

from cuda_on_cpu import Kernels, driver
from test_compile_networks import quantized

from hwsim.cli import doctor
from hwsim.compile import artifact
from hwsim.compile import cuda_source as cuda_files
from hwsim.compile.check import single_products, spread_inputs
from hwsim.compile.cuda_source import cuda_source
from hwsim.compile.isa import ISAS
from hwsim.compile.lower import lower
from hwsim.compile.pack import Term, pack_terms
from hwsim.compile.product import Product
from hwsim.compile.proof import integer_proof
from hwsim.errors import UserError
from hwsim.runtime import cuda as runtime
from hwsim.runtime import load

CUDA = ISAS["cuda"]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


def written(scratch, monkeypatch, factory, scheme, capability):
    """An artifact, its model and one input, and a driver on which its kernels run."""
    monkeypatch.setattr(artifact, "compile_cuda", lambda source: [("kernels.fatbin", b"stands in for it")])
    model, inputs, _ = quantized(factory, scheme)
    module = model.integer()
    artifact.write_artifact(lower(module, CUDA), CUDA, scratch / "art")
    library = driver((scratch / "art" / "kernels.cu").read_text(), scratch, capability)
    monkeypatch.setattr(runtime, "_LIBRARY", str(library))
    return module, inputs


@needs_compiler
@pytest.mark.parametrize(
    ("factory", "scheme", "capability"),
    [("cnn", "w4a8.o2.g50", 75), ("transformer", "w8a8", 80), ("wide_transformer", "w4a4", 89)],
)
def test_artifact_runs_through_the_driver(tmp_path, monkeypatch, factory, scheme, capability):
    """Loaded and run as on a device; a CPU answers in the driver's place."""
    module, inputs = written(tmp_path, monkeypatch, factory, scheme, capability)
    model = load(tmp_path / "art")
    found = model(*[x.numpy() for x in inputs])["output0"]
    expected = module(*inputs)[0].numpy()
    bound = 1e-6 if factory == "cnn" else 0.02 if scheme == "w8a8" else 0.2
    assert np.abs(found - expected).max() <= bound * np.abs(expected).max()
    assert np.array_equal(model(*[x.numpy() for x in inputs])["output0"], found)
    assert [layer for layer, _, seconds in model.profile(1) if seconds > 0] == model.layers
    assert integer_proof(lower(module, CUDA), CUDA).share == 1.0


@needs_compiler
@pytest.mark.parametrize(
    ("factory", "scheme", "capability"),
    [("wide_transformer", "w8a8", 75), ("wide_transformer", "w4a4.o2.g50", 80), ("cnn", "w4a4.o3.g50-25", 75),
     ("transformer", "w8a12", 80), ("cnn", "w2a8.o2.c50", 90), ("wide_transformer", "w4a4", 90)],
)  # fmt: skip
def test_every_product_equals_torch(tmp_path, factory, scheme, capability):
    """Tolerance 0, each product cut out of the network, on codes that fill the whole range."""
    model, _, _ = quantized(factory, scheme)
    generator, programs = torch.Generator().manual_seed(0), []
    for name, single in single_products(model.integer()):
        programs.append((name, single, lower(single, CUDA), spread_inputs(single, generator)))
    kernels = list(dict.fromkeys(k for _, _, program, _ in programs for k in program.kernels()))
    dots = {getattr(k, "machine", lambda isa: isa)(CUDA).dot for k in kernels}
    assert ("mma" in dots) == (not scheme.endswith("a12")), dots  # tensor cores multiply bytes
    source, launches = cuda_source(kernels, CUDA)
    device = Kernels(source, tmp_path, capability)
    for name, single, program, inputs in programs:
        found = device.run_program(program, launches, [x.numpy() for x in inputs])
        assert np.array_equal(found, single(*inputs)[0].numpy()), name


SOMETHING = 'extern "C" __global__ void nothing(int* parameter) {}'


@needs_compiler
def test_without_a_device_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(artifact, "compile_cuda", lambda source: [])
    monkeypatch.setattr(runtime, "_LIBRARY", "libno-such-driver.so")
    model, _, _ = quantized("cnn", "w8a8")
    artifact.write_artifact(lower(model.integer(), CUDA), CUDA, tmp_path)
    with pytest.raises(UserError, match=r"no driver on this machine.*--isa host"):
        load(tmp_path)
    monkeypatch.setattr(runtime, "_LIBRARY", str(driver(SOMETHING, tmp_path, capability=61)))
    with pytest.raises(UserError, match=r"7\.5 or newer, a CPU has 6\.1"):
        load(tmp_path)


@needs_compiler
def test_doctor_names_the_device(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "_LIBRARY", "libno-such-driver.so")
    assert doctor._device().status == "missing"
    monkeypatch.setattr(runtime, "_LIBRARY", str(driver(SOMETHING, tmp_path, capability=89)))
    assert (doctor._device().status, doctor._device().detail) == ("ok", "a CPU, compute capability 8.9")


def test_benchmark_without_a_device_says_so_in_one_line():
    if ctypes.util.find_library("cuda"):
        pytest.skip("this machine has a driver")
    benchmark = Path(__file__).resolve().parents[3] / "benchmarks" / "kernels" / "cuda_products.py"
    result = subprocess.run([sys.executable, benchmark], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr.splitlines()) == (
        2,
        ["CUDA: no driver on this machine (libcuda.so.1)"],
    )


def test_image_for_a_device():
    def image(capability, *names):
        return runtime.image_for({"files": dict.fromkeys(names, "")}, capability)

    texts = ("kernels.sm_75.ptx", "kernels.sm_80.ptx", "kernels.sm_90.ptx", "kernels.cu")
    assert [image(c, *texts)[8:13] for c in (75, 80, 89, 90, 120)] == [
        "sm_75",
        "sm_80",
        "sm_80",
        "sm_90",
        "sm_90",
    ]
    assert image(80, *texts, "kernels.fatbin") == "kernels.fatbin"
    with pytest.raises(UserError, match="source alone"):
        image(80, "kernels.cu")


def small_product():
    """A packed 4-bit product of odd sizes."""
    w = np.random.default_rng(0).integers(-8, 8, (24, 40)).astype(np.int8)
    machine = CUDA.dense(40)
    packed = pack_terms(
        [Term(w, np.arange(24), np.ones(24, np.float32))], 24, 1, machine, machine.tile_vectors
    )
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


def test_nvrtc_compiles_a_product(monkeypatch):
    """Where its wheel or a CUDA installation is at hand; PTX names the kernels."""
    library = cuda_files.nvrtc_library()
    if library is None:
        pytest.skip("NVRTC is not installed (pip install nvidia-cuda-nvrtc-cu12)")
    source, launches = cuda_source([small_product()[1]], CUDA)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    files = dict(cuda_files.compile_cuda(source))
    assert sorted(files) == ["kernels.sm_75.ptx", "kernels.sm_80.ptx", "kernels.sm_90.ptx"]
    for text in files.values():
        assert all(f".entry {launch['symbol']}(" in text.decode() for launch in next(iter(launches.values())))
    assert "m16n8k32" in files["kernels.sm_80.ptx"].decode()
    with pytest.raises(UserError, match="NVRTC"):
        cuda_files.compile_cuda("this is not C")
