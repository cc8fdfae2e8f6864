"""Whole small networks: compiled artifact against the bit-true torch model."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")
import torch

from hwsim.compile import proof
from hwsim.compile.artifact import write_artifact
from hwsim.compile.check import unequal_products
from hwsim.compile.isa import host_isa
from hwsim.compile.lower import lower
from hwsim.compile.proof import integer_proof
from hwsim.errors import UserError
from hwsim.model.load import load_model
from hwsim.runtime import load
from hwsim.stages.quantize import uniform_assignment
from quant.group_bias import GroupBias
from quant.methods.interpret import integer_model
from quant.observe import observe_ranges
from quant.pipeline import apply_recipe
from quant.qmodel import quantize
from quant.recipe import Recipe
from quant.scheme import Scheme

NETWORKS = Path(__file__).with_name("tiny_networks.py")


def normal_batches(model):
    """Two batches like the example inputs, normal where they are floats."""
    generator = torch.Generator().manual_seed(1)
    return [
        tuple(
            torch.randn(x.shape, generator=generator) if x.is_floating_point() else x
            for x in model.example_inputs
        )
        for _ in range(2)
    ]


def quantized(factory, scheme, floats=()):
    """Integer torch module, float module and one input."""
    model = load_model(f"{NETWORKS}:{factory}")
    batches = normal_batches(model)
    assignment = uniform_assignment(model.graph, Scheme.parse(scheme))
    assignment = {name: s for name, s in assignment.items() if name not in floats}
    ranges = observe_ranges(model.module, assignment, batches)
    return quantize(model.module, assignment, ranges=ranges), batches[0], model


def compiled(directory, module, inputs, isa=None):
    """Outputs of the artifact and of torch for the same input."""
    isa = isa or host_isa()
    write_artifact(lower(module, isa), isa, directory)
    with torch.no_grad():
        expected = module(*inputs)
    expected = expected[0] if isinstance(expected, tuple | list) else expected
    found = load(directory)(*[x.numpy() for x in inputs])["output0"]
    return found, expected.numpy()


@pytest.mark.parametrize("scheme", ["w2a4", "w3a8", "w4a8.o2.g50"])
def test_negative_scales_and_the_lowest_code(tmp_path, monkeypatch, scheme):
    """Fitted grids use all of two's complement, with the lowest code on either side of zero."""
    monkeypatch.setenv("HWSIM_CACHE", str(tmp_path / "cache"))
    model = load_model(f"{NETWORKS}:cnn")
    batches = normal_batches(model)
    assignment = uniform_assignment(model.graph, Scheme.parse(scheme))
    made = apply_recipe(model.module, assignment, batches, Recipe.parse("mse"))
    terms = [term for layer in made.placement.layers.values() for term in layer.terms]
    assert any(int(term.codes.min()) == -(2 ** (term.bits - 1)) for term in terms)
    assert any(bool((term.scale < 0).any()) for term in terms)
    found, expected = compiled(
        tmp_path / "art", integer_model(made.module, made.placement).integer(), batches[0]
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8.o2.g50", "w4a6.o3.g50-25", "w4a8.o2.c50", "w2a4", "w8a12"])
def test_cnn_is_bit_equal(tmp_path, monkeypatch, scheme):
    """Only exact operators: everything but the order of the pooled sum must agree to the last bit."""
    monkeypatch.setenv("HWSIM_CACHE", str(tmp_path / "cache"))
    model, inputs, _ = quantized("cnn", scheme)
    found, expected = compiled(tmp_path / "art", model.integer(), inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert np.abs(expected).max() > 0.01


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8.o2.g50", "w4a8.o2.c25", "w2a8.o3"])
def test_transformer_agrees(tmp_path, monkeypatch, scheme):
    """exp, erf and 1/sqrt differ by ulps; a code may flip, so the bound is a few quantization steps."""
    monkeypatch.setenv("HWSIM_CACHE", str(tmp_path / "cache"))
    model, inputs, _ = quantized("transformer", scheme)
    found, expected = compiled(tmp_path / "art", model.integer(), inputs)
    assert np.abs(found - expected).max() <= 0.02 * np.abs(expected).max()


@pytest.mark.parametrize(("left", "right"), [(16, 8), (8, 16), (12, 12), (9, 4)])
def test_attention_with_more_than_8_bits_is_bit_equal(tmp_path, monkeypatch, left, right):
    """Every product against its own codes; heads of 64 channels, as long as tiles are."""
    monkeypatch.setenv("HWSIM_CACHE", str(tmp_path / "cache"))
    loaded = load_model(f"{NETWORKS}:long_headed_transformer")
    assignment = uniform_assignment(loaded.graph, Scheme(8, 8))
    pairs = {layer.name: Scheme(right, left) for layer in loaded.graph.products() if layer.kind == "matmul"}
    batches = normal_batches(loaded)
    ranges = observe_ranges(loaded.module, assignment | pairs, batches)
    module = quantize(loaded.module, assignment | pairs, ranges=ranges).integer()
    found, expected = compiled(tmp_path / "art", module, batches[0])
    assert np.abs(found - expected).max() <= 0.02 * np.abs(expected).max()
    count, wrong = unequal_products(module, host_isa())
    assert (count, wrong) == (len(loaded.graph.products()), [])


def test_composed_operators_agree(tmp_path, monkeypatch):
    """Norms and softmax differ by ulps; a code may flip."""
    monkeypatch.setenv("HWSIM_CACHE", str(tmp_path / "cache"))
    model, inputs, _ = quantized("composed", "w8a8")
    found, expected = compiled(tmp_path / "art", model.integer(), inputs)
    assert np.abs(found - expected).max() <= 0.02 * np.abs(expected).max()
    assert np.abs(expected).max() > 0.01


@pytest.mark.parametrize("factory", ["decoder", "pyramid"])
def test_every_product_between_other_operators_is_bit_equal(tmp_path, monkeypatch, factory):
    monkeypatch.setenv("HWSIM_CACHE", str(tmp_path / "cache"))
    model, inputs, loaded = quantized(factory, "w8a8")
    module = model.integer()
    found, expected = compiled(tmp_path / "art", module, inputs)
    assert np.abs(found - expected).max() <= 0.02 * np.abs(expected).max()
    count, wrong = unequal_products(module, host_isa())
    assert (count, wrong) == (len(loaded.graph.products()), [])
    with torch.no_grad():
        exact = loaded.module(*inputs)[0].numpy()
    assert np.abs(found - exact).max() <= 0.1 * np.abs(exact).max()


def test_first_attention_product_is_exact(tmp_path, monkeypatch):
    """Cut after the first product of two activations: no transcendental before it but one layer norm."""
    monkeypatch.setenv("HWSIM_CACHE", str(tmp_path / "cache"))
    model, inputs, _ = quantized("transformer", "w8a8")
    module = model.integer()
    wanted = next(n for n in module.graph.nodes if str(n.target) == "hwsim.dequantize.default")
    next(n for n in module.graph.nodes if n.op == "output").args = ((wanted,),)
    module.graph.eliminate_dead_code()
    module.recompile()
    found, expected = compiled(tmp_path / "art", module, inputs)
    assert np.array_equal(found, expected)


def test_proof_counts_every_mac(tmp_path):
    model, _, loaded = quantized("transformer", "w8a8")
    found = integer_proof(lower(model.integer(), host_isa()), host_isa())
    assert found.share == 1.0
    assert found.float_layers == ()
    assert found.integer_macs == loaded.graph.total_macs


def test_proof_of_a_known_kernel_costs_a_file_read(tmp_path, monkeypatch):
    monkeypatch.setenv("HWSIM_CACHE", str(tmp_path))
    model, _, _ = quantized("cnn", "w8a8")
    program = lower(model.integer(), host_isa())
    proof.weight_multiplications.cache_clear()
    first = proof.integer_proof(program, host_isa())

    def forbidden(kernel, isa):
        raise AssertionError("walked again")

    monkeypatch.setattr(proof, "_multiplications", forbidden)
    proof.weight_multiplications.cache_clear()
    assert proof.integer_proof(program, host_isa()) == first
    proof.weight_multiplications.cache_clear()  # the directory goes with this test


def test_proof_names_float_layers():
    model, _, loaded = quantized("transformer", "w8a8", floats=("head", "blocks.0.attn.qk"))
    found = integer_proof(lower(model.integer(), host_isa()), host_isa())
    assert "head" in found.float_layers
    assert 0 < found.float_macs < found.integer_macs
    assert found.float_macs + found.integer_macs == loaded.graph.total_macs


def test_float_layers_agree(tmp_path, monkeypatch):
    monkeypatch.setenv("HWSIM_CACHE", str(tmp_path / "cache"))
    for factory, floats in (
        ("cnn", ("stem", "grouped", "head", "depthwise")),
        ("transformer", ("head", "patch")),
    ):
        model, inputs, _ = quantized(factory, "w8a8", floats)
        found, expected = compiled(tmp_path / factory, model.integer(), inputs)
        assert np.abs(found - expected).max() <= 0.02 * np.abs(expected).max()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    directory = tmp_path_factory.mktemp("artifact")
    model, inputs, _ = quantized("transformer", "w8a8")
    module = model.integer()
    write_artifact(lower(module, host_isa()), host_isa(), directory, plan="{}\n")
    np.savez(directory.parent / "input.npz", x=inputs[0].numpy())
    return directory


def test_runs_without_torch_and_compiler(artifact):
    """The same folder in a process where torch, timm, transformers and tvm cannot be imported."""
    script = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'timm', 'transformers', 'tvm', 'scipy', 'networkx'):\n"
        "    sys.modules[name] = None\n"
        "import numpy as np\n"
        "from hwsim.runtime import load\n"
        f"model = load({str(artifact)!r})\n"
        f"out = model(np.load({str(artifact.parent / 'input.npz')!r})['x'])['output0']\n"
        "print(repr(out.sum()), sorted(m for m in sys.modules if m.startswith('hwsim')))\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "hwsim.compile." not in result.stdout


def test_same_inputs_same_bytes(artifact, tmp_path):
    model, _, _ = quantized("transformer", "w8a8")
    write_artifact(lower(model.integer(), host_isa()), host_isa(), tmp_path, plan="{}\n")
    first, second = (json.loads((d / "manifest.json").read_text())["files"] for d in (artifact, tmp_path))
    assert first == second


@pytest.mark.parametrize("name", ["module.so", "params.safetensors", "program.json", "plan.json"])
def test_changed_file_is_refused(artifact, tmp_path, name):
    for file in artifact.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / name).write_bytes(bytes(data))
    with pytest.raises(UserError, match="does not match the manifest"):
        load(tmp_path)


def test_missing_file_is_refused(artifact, tmp_path):
    (tmp_path / "manifest.json").write_bytes((artifact / "manifest.json").read_bytes())
    with pytest.raises(UserError, match="missing"):
        load(tmp_path)


def test_wrong_inputs_are_refused(artifact):
    model = load(artifact)
    with pytest.raises(UserError, match="shape"):
        model(np.zeros((1, 3, 16, 16), np.float32))
    with pytest.raises(UserError, match="takes"):
        model(y=np.zeros((1, 3, 32, 32), np.float32))
    with pytest.raises(UserError, match="type"):
        model(np.zeros((1, 3, 32, 32), complex))


def test_unaligned_and_strided_inputs_are_copied(artifact):
    """Generated code crashes on unaligned data; the border must not let it through."""
    model = load(artifact)
    x = np.load(artifact.parent / "input.npz")["x"]
    expected = model(x)["output0"]
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    raw[:] = x
    assert np.array_equal(model(raw)["output0"], expected)
    assert np.array_equal(model(np.asfortranarray(x))["output0"], expected)


@pytest.mark.parametrize("factory", ["cnn", "transformer"])
def test_two_threads_give_the_same_bits(tmp_path, factory):
    """In a process of its own: the thread pool belongs to the process."""
    model, inputs, _ = quantized(factory, "w8a8")
    module = model.integer()
    np.savez(tmp_path / "input.npz", x=inputs[0].numpy())
    for threads in (1, 2):
        program = lower(module, host_isa(), units=threads)
        write_artifact(program, host_isa(), tmp_path / str(threads), threads=threads)
    script = (
        "import sys, numpy as np\n"
        "from hwsim.runtime import load\n"
        f"root = {str(tmp_path)!r}\n"
        "x = np.load(root + '/input.npz')['x']\n"
        "one, two = (load(f'{root}/{n}')(x)['output0'] for n in (1, 2))\n"
        "assert np.array_equal(one, two), abs(one - two).max()\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_biases_of_position_groups_join_the_kernel_of_the_product(tmp_path, monkeypatch):
    """Bit-equal behind one product, and no further step in the program."""
    monkeypatch.setenv("HWSIM_CACHE", str(tmp_path / "cache"))
    model, inputs, _ = quantized("transformer", "w4a8")
    name, layer = next((n, m) for n, m in model.layers.items() if m.kind == "linear")
    shape = next(n.meta["val"].shape for n in model.module.graph.nodes if n.meta.get("layer") == name)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, tuple(shape[1:-1]), generator=generator)
    groups = GroupBias(labels, torch.randn(2, shape[-1], generator=generator))
    grouped = replace(model, layers={**model.layers, name: replace(layer, groups=groups)})
    steps = []
    for number, made in enumerate((model, grouped)):
        module = made.integer()
        wanted = [n for n in module.graph.nodes if n.meta.get("layer") == name and n.op == "call_function"][
            -1
        ]
        next(n for n in module.graph.nodes if n.op == "output").args = ((wanted,),)
        module.graph.eliminate_dead_code()
        module.recompile()
        found, expected = compiled(tmp_path / str(number), module, inputs)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
        steps.append(len(lower(module, host_isa()).steps))
    assert steps[0] == steps[1]
