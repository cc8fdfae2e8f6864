"""The product of log codes and values, compiled: against numpy int64 and the torch operators, tolerance 0."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")

import torch
from torch import fx, nn

sys.path.insert(0, str(Path(__file__).parent))

from test_compile_foreign import run_in_c, written
from test_compile_networks import compiled
from test_compile_product import HOST, runnable

from hwsim.compile.build import call_kernel
from hwsim.compile.check import run_program, unequal_products
from hwsim.compile.isa import ISAS
from hwsim.compile.lower import lower
from hwsim.compile.powers import PowerPlanes
from hwsim.compile.proof import integer_proof
from hwsim.model.load import load_model
from quant.pipeline import run_recipe, uniform_assignment
from quant.recipe import Recipe
from quant.scheme import Scheme

hwsim = torch.ops.hwsim
FORMS = [(15, 2), (16, 2), (32, 2), (7, 1), (16, 1)]
MODELS = Path(__file__).parents[2] / "small_models.py"


def product_graph(shape, levels, steps, zero):
    """``log_dequantize(int_log_matmul(log_quantize(a), quantize(v)))`` for a (b, n, m) and v (b, m, c)."""
    batch, n, m, c = shape
    root, graph = nn.Module(), fx.Graph()

    def noted(node, value):
        node.meta.update(val=value.to("meta"), layer="product")
        return node

    def read(name, tensor):
        root.register_buffer(name, tensor)
        return noted(graph.create_node("get_attr", name), tensor)

    def call(target, *args):
        values = [a.meta["val"] if isinstance(a, fx.Node) else a for a in args]
        return noted(graph.call_function(target, args), target(*values))

    a, v = (
        noted(graph.placeholder(name), torch.empty(s))
        for name, s in (("a", (batch, n, m)), ("v", (batch, m, c)))
    )
    scale_a, scale_v = read("scale_a", torch.tensor(0.83)), read("scale_v", torch.tensor(0.017))
    zero_v = read("zero_v", torch.tensor(zero, dtype=torch.int32))
    codes = call(hwsim.log_quantize.default, a, scale_a, levels, steps)
    values = call(hwsim.quantize.default, v, scale_v, zero_v, 8, False)
    sums = call(hwsim.int_log_matmul.default, codes, values, zero_v, levels, steps)
    graph.output((call(hwsim.log_dequantize.default, sums, scale_a, scale_v, levels, steps),))
    return fx.GraphModule(root, graph)


def inputs_for(module, shape, codes, values):
    """Float inputs that fall on the given codes."""
    levels, steps = next(n for n in module.graph.nodes if "log_quantize" in str(n.target)).args[2:4]
    a = np.where(codes < levels, 0.83 * 2.0 ** (-codes.astype(np.float64) / steps), 0.0)
    v = (values.astype(np.float64) - int(module.zero_v)) * float(module.scale_v)
    return [a.astype(np.float32), v.astype(np.float32)]


def exact_sums(codes, values, zero, levels, steps):
    """int64: values shifted left by what their code leaves of 7, added for each parity of each 8 octaves."""
    octave, parity = codes.astype(np.int64) // steps, codes % steps
    centred = values.astype(np.int64) - zero
    sums = []
    for group in range(steps * -(-levels // (8 * steps))):
        live = (codes < levels) & (parity == group % steps) & (octave // 8 == group // steps)
        sums.append(np.where(live, 1 << (7 - octave % 8), 0) @ centred)
    return sums


@pytest.mark.parametrize("isa", runnable(), ids=lambda i: i.name)
@pytest.mark.parametrize("form", FORMS)
def test_planes_are_powers_of_two(isa, form):
    levels, steps = form
    rng = np.random.default_rng(levels)
    for elements in (1, 63, 200):
        codes = rng.integers(0, levels + 1, elements).astype(np.uint8)
        kernel = PowerPlanes(elements, levels, steps)
        out = np.zeros(kernel.planes * elements, np.uint8)
        call_kernel(kernel, isa, [codes, out])
        one = np.ones((1, 1), np.uint8)
        expected = [
            exact_sums(codes[:, None], one, 0, levels, steps)[p].ravel() for p in range(kernel.planes)
        ]
        assert np.array_equal(out.reshape(kernel.planes, -1), np.array(expected))


@pytest.mark.parametrize("isa", runnable(), ids=lambda i: i.name)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("shape", "zero"), [((3, 5, 37, 19), 119), ((1, 13, 50, 72), 128)])
def test_product_is_bit_equal(isa, form, shape, zero):
    levels, steps = form
    module = product_graph(shape, levels, steps, zero)
    batch, n, m, c = shape
    rng = np.random.default_rng(sum(shape) + levels)
    for kind in ("random", "first", "last", "zero"):
        codes = rng.integers(0, levels + 1, (batch, n, m)).astype(np.uint8)
        values = rng.integers(0, 256, (batch, m, c)).astype(np.uint8)
        if kind != "random":
            codes[:] = {"first": 0, "last": levels - 1, "zero": levels}[kind]
            values[:] = 255
        inputs = inputs_for(module, shape, codes, values)
        (found,) = run_program(lower(module, isa), isa, inputs)
        assert np.array_equal(found, module(*map(torch.from_numpy, inputs))[0].numpy())
        both, expected = np.float32(0.83) * np.float32(0.017), np.float32(0)
        for group, total in enumerate(exact_sums(codes, values, zero, levels, steps)):
            root = np.float32(2**0.5) / 2 if group % steps else 1.0
            factor = both * np.float32(root * 2.0 ** -(7 + 8 * (group // steps)))
            expected = expected + total.astype(np.float32) * factor
        assert np.array_equal(found, expected)


def test_random_weights_give_the_codes_of_torch():
    """Values between the levels, denormal and infinite ones: the kernel reads the same bits."""
    module = product_graph((1, 40, 50, 3), 32, 2, 128)
    generator = torch.Generator().manual_seed(0)
    a = torch.softmax(torch.randn(1, 40, 50, generator=generator) * 8, -1)
    a[0, 0, :5] = torch.tensor([1e-40, 1e-30, 0.0, float("inf"), 3.4e38])
    v = torch.randn(1, 50, 3, generator=generator)
    (found,) = run_program(lower(module, HOST), HOST, [a.numpy(), v.numpy()])
    assert np.array_equal(found, module(a, v)[0].numpy())


@pytest.mark.parametrize("name", ["c", "aarch64-dotprod", "aarch64-i8mm", "riscv64-v"])
def test_foreign_machines_are_bit_equal(tmp_path, name):
    shape, isa = (2, 7, 21, 9), ISAS[name]
    module = product_graph(shape, 16, 2, 77)
    rng = np.random.default_rng(5)
    codes, values = rng.integers(0, 17, (2, 7, 21)), rng.integers(0, 256, (2, 21, 9))
    inputs = inputs_for(module, shape, codes, values)
    written(lower(module, isa), isa, tmp_path / "art")
    if name == "c":
        options = ["-std=c11", "-O1", "-shared", "-fPIC", "-ffp-contract=off"]
        source, library = tmp_path / "art" / "kernels.c", tmp_path / "art" / "module.so"
        subprocess.run(["cc", *options, "-o", library, source, "-lm"], check=True)
        isa = HOST
    found = np.frombuffer(run_in_c(tmp_path / "art", isa, inputs, tmp_path), np.float32)
    assert np.array_equal(found, module(*map(torch.from_numpy, inputs))[0].numpy().ravel())


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_cuda_source_is_bit_equal(tmp_path):
    """The source, run by a CPU in the device's place; a size that the matrix unit would take."""
    from cuda_on_cpu import Kernels

    from hwsim.compile.cuda_source import cuda_source

    shape, isa = (2, 20, 64, 64), ISAS["cuda"]
    module = product_graph(shape, 16, 2, 77)
    rng = np.random.default_rng(6)
    codes, values = rng.integers(0, 17, (2, 20, 64)), rng.integers(0, 256, (2, 64, 64))
    inputs = inputs_for(module, shape, codes, values)
    program = lower(module, isa)
    source, launches = cuda_source(program.kernels(), isa)
    found = Kernels(source, tmp_path, 80).run_program(program, launches, inputs)
    assert np.array_equal(found, module(*map(torch.from_numpy, inputs))[0].numpy())


def transformer(recipe, scheme):
    """Integer graph of the small transformer after a recipe, one input, and the count of its MACs."""
    model = load_model(f"{MODELS}:transformer")
    generator = torch.Generator().manual_seed(2)
    batches = [(torch.randn(1, 16, 12, generator=generator),) for _ in range(4)]
    plan = uniform_assignment([p.name for p in model.graph.layers if p.is_product], Scheme.parse(scheme))
    made = run_recipe(model.module, plan, batches, Recipe.parse(recipe), holdout=0)
    return made.quantized_model().integer(), batches[0], model.graph.total_macs


@pytest.mark.parametrize(
    ("recipe", "scheme"),
    [
        ({"steps": ["repqvit"], "logsoftmax": {"zero": "extended"}}, "w4a4"),
        ({"steps": ["repqvit", "gptq"], "logsoftmax": {"base": "2"}}, "w4a6.o2"),
    ],
)
def test_whole_transformer_with_the_recipe(tmp_path, monkeypatch, recipe, scheme):
    """Compiled: every product to the last bit, all of them in integers, the output within a few steps."""
    monkeypatch.setenv("HWSIM_CACHE", str(tmp_path / "cache"))
    module, inputs, macs = transformer(recipe, scheme)
    assert any("int_log_matmul" in str(n.target) for n in module.graph.nodes)
    count, wrong = unequal_products(module, HOST)
    assert count == 8 and wrong == []
    proof = integer_proof(lower(module, HOST), HOST)
    assert proof.share == 1.0
    assert proof.integer_macs >= macs
    found, expected = compiled(tmp_path / "art", module, inputs)
    assert np.abs(found - expected).max() <= 0.02 * np.abs(expected).max()
