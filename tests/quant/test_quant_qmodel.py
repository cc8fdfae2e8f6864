"""The quantized model: integer path, differentiable twin, round trip on disk, and the traps of expansion."""

import json
import operator

import numpy as np
import pytest
import torch
from torch import fx, nn

from quant.activation import ActQuantizer, ActRanges, quantizer_of
from quant.errors import QuantError
from quant.expansion import expand
from quant.fake import FakeActivation, fake_parts
from quant.model_pass import find_products
from quant.observe import observe_ranges, synthetic_inputs
from quant.qmodel import QuantizedModel, QuantizeOptions, quantize
from quant.scheme import FLOAT, Scheme
from quant.terms import Term


class Net(nn.Module):
    """Every kind of product: dense, depthwise and grouped convolution, linear, attention products."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.depth = nn.Conv2d(8, 16, 3, 1, 1, groups=8)
        self.group = nn.Conv2d(16, 12, 3, 1, 1, groups=4)
        self.q, self.k = nn.Linear(12, 6), nn.Linear(12, 6)
        self.head = nn.Linear(12, 10)

    def forward(self, x):
        y = self.group(torch.relu(self.depth(torch.relu(self.stem(x)))))
        y = y.flatten(2).transpose(1, 2)
        a = torch.softmax(self.q(y) @ self.k(y).transpose(1, 2), -1)
        return self.head((a @ y).mean(1))


NAMES = ["stem", "depth", "group", "q", "k", "qk", "av", "head"]


def traced(module=None, names=NAMES, x=None):
    torch.manual_seed(0)
    module = (module or Net()).eval()
    x = torch.randn(2, 3, 12, 12) if x is None else x
    graph = torch.export.export(module, (x,)).module()
    products = ("aten.conv2d", "aten.linear", "aten.matmul")
    found = [n for n in graph.graph.nodes if str(n.target).startswith(products)]
    for node, name in zip(found, names, strict=True):
        node.meta["layer"] = name
    for node in list(graph.graph.nodes):
        if node.op == "call_module":
            graph.graph.erase_node(node)
    graph.recompile()
    return graph, x


def assign(text, names=NAMES):
    scheme = Scheme.parse(text)
    product = Scheme(8, scheme.act_bits) if scheme.act_bits else FLOAT
    return {n: product if n in ("qk", "av") else scheme for n in names}


def first(value):
    return value[0] if isinstance(value, tuple) else value


def run(module, x):
    with torch.no_grad():
        return first(module(x))


@pytest.fixture(scope="module")
def net():
    graph, x = traced()
    ranges = observe_ranges(graph, assign("w8a8"), [(x,)])
    return graph, x, ranges


@pytest.fixture(scope="module")
def make(net):
    return lambda text, **kw: quantize(net[0], assign(text), ranges=net[2], **kw)


def tiled_terms(name, weight, scheme, moments):
    return expand(weight, scheme, moments=moments, rule="tiled").terms


SCHEMES = [
    "w8a8",
    "w4a8",
    "w4a8.o2",
    "w4a8.o2.g50",
    "w4a8.o3.g50-25",
    "w4a8.o2.c50",
    "w4a8.o2.b1",
    "w3a6.o4",
    "w1a8",
]


def test_more_bits_come_closer_to_float(net, make):
    graph, x, _ = net
    wide = observe_ranges(graph, assign("w8a14"), [(x,)])
    exact = quantize(graph, assign("w8a14.o2"), ranges=wide).integer()
    reference = run(graph, x)
    errors = [float((run(m, x) - reference).norm() / reference.norm()) for m in
              (make("w2a8").integer(), make("w4a8").integer(), make("w8a8").integer(), exact)]  # fmt: skip
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[3] < 2e-3


@pytest.mark.parametrize("text", [*SCHEMES, "w4", "w4.o2.g50"])
def test_q4_fake_twin_equals_integer_path(net, make, text):
    model = make(text)
    integer, fake = run(model.integer(), net[1]), run(model.fake(), net[1])
    assert torch.allclose(integer, fake, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("text", SCHEMES)
def test_q4_integer_path_equals_float_simulation_layer_by_layer(net, make, text):
    """Each product alone, in float64: dequantized inputs times dequantized weight, bias added once."""
    graph, model = net[0], make(text)
    for product in find_products(graph):
        if product.kind == "matmul":
            continue
        layer = model.layers[product.name]
        quantizer = model.activations[layer.inputs[0]]
        value = torch.randn(product.inputs[0].meta["val"].shape) * 0.5
        single = fx.Graph()
        place = single.placeholder("x")
        place.meta["val"] = value
        operands = [single.create_node("get_attr", n) for n in (product.weight, product.bias)]
        node = single.call_function(product.node.target, (place, *operands, *product.node.args[3:]))
        node.meta["layer"] = product.name
        single.output(node)
        alone = QuantizedModel(
            fx.GraphModule(graph, single), {product.name: layer}, {layer.inputs[0]: quantizer}
        ).integer()
        zero, peak = quantizer.zero_point, 2**quantizer.bits - 1
        codes = (value / quantizer.scale).round().clamp(-zero, peak - zero)
        wide = (codes.double() * quantizer.scale, layer.weight().double(), layer.bias.double())
        expected = product.node.target(*wide, *product.node.args[3:])
        assert torch.allclose(run(alone, value).double(), expected, rtol=1e-5, atol=1e-5), product.name


def test_dynamic_ranges_run_and_beat_nothing_stored(net):
    graph, x, ranges = net
    model = quantize(graph, assign("w8a8"), ranges=ranges, options=QuantizeOptions(act_kind="dynamic"))
    assert model.activations["head.in0"].kind == "dynamic"
    out = run(model.integer(), x)
    assert torch.allclose(out, run(model.fake(), x), rtol=1e-5, atol=1e-6)
    assert float((out - run(graph, x)).norm() / run(graph, x).norm()) < 0.02


def test_one_quantizer_for_a_tensor_read_twice(make):
    model = make("w8a8")
    assert model.layers["q"].inputs == model.layers["k"].inputs == ("q.in0",)
    assert model.layers["av"].inputs[1] == "q.in0"
    quantizers = [n for n in model.integer().graph.nodes if n.target is torch.ops.hwsim.quantize.default]
    assert len(quantizers) == len(model.activations)


@pytest.mark.parametrize("axis", ["g", "c"])
def test_kept_all_equals_dense_and_kept_none_equals_first_order(net, make, axis):
    """Exact, whichever rule chooses the scales."""
    for options in (QuantizeOptions(), QuantizeOptions(terms=tiled_terms)):
        out = {text: run(make(text, options=options).integer(), net[1]) for text in
               ("w4a8", "w4a8.o2", f"w4a8.o2.{axis}100", f"w4a8.o2.{axis}0")}  # fmt: skip
        assert torch.equal(out[f"w4a8.o2.{axis}100"], out["w4a8.o2"])
        assert torch.equal(out[f"w4a8.o2.{axis}0"], out["w4a8"])


def test_first_terms_of_a_longer_expansion_are_the_shorter_one(net, make):
    tiled = QuantizeOptions(terms=tiled_terms)
    prefix = make("w4a8.o3", options=tiled).select(lambda layer: range(2))
    assert torch.equal(run(prefix.integer(), net[1]), run(make("w4a8.o2", options=tiled).integer(), net[1]))


@pytest.mark.parametrize("text", ["w4a8", "w4a8.o3", "w4a8.o2.g50", "w4a8.o2.c25", "w4a8.o2.b1"])
def test_bias_is_added_once(text):
    """With all weights zero the output is the bias, whatever the expansion."""
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 10 * 10, 7))
    for p in (module[0].weight, module[2].weight):
        nn.init.zeros_(p)
    graph, x = traced(module, ["conv", "fc"])
    names = {n: Scheme.parse(text) for n in ("conv", "fc")}
    model = quantize(graph, names, ranges=observe_ranges(graph, names, [(x,)]))
    assert torch.equal(run(model.integer(), x), module[2].bias.detach().expand(2, 7))
    assert torch.equal(run(model.fake(), x), module[2].bias.detach().expand(2, 7))


@pytest.mark.parametrize("text", ["w4a8.o2.g50", "w4a8.o3.g40-20", "w3a8.o2"])
def test_permuting_output_rows_permutes_the_output(text):
    torch.manual_seed(1)
    order = torch.randperm(20)
    layer = nn.Linear(9, 20)
    other = nn.Linear(9, 20)
    other.weight.data, other.bias.data = layer.weight.data[order], layer.bias.data[order]
    outputs = []
    for module in (layer, other):
        graph, x = traced(nn.Sequential(module), ["fc"], torch.arange(36.0).reshape(4, 9).cos())
        names = {"fc": Scheme.parse(text)}
        outputs.append(run(quantize(graph, names, ranges=observe_ranges(graph, names, [(x,)])).integer(), x))
    assert torch.equal(outputs[0][:, order], outputs[1])


@pytest.mark.parametrize("text", [*SCHEMES, "w8a16", "w5a12.o2"])
def test_round_trip_on_disk_is_bit_identical(tmp_path, net, text):
    graph, x, _ = net
    ranges = observe_ranges(graph, assign(text), [(x,)])
    model = quantize(graph, assign(text), ranges=ranges)
    digest = model.save(tmp_path / "a")
    blank, _ = traced()
    for parameter in blank.parameters():
        parameter.data.fill_(float("nan"))
    again = QuantizedModel.load(tmp_path / "a", blank)
    assert torch.equal(run(again.integer(), x), run(model.integer(), x))
    assert again.save(tmp_path / "b") == digest
    for name in ("quantized.json", "weights.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("parameter", [True, False])
def test_constants_folded_at_another_batch_size_are_fitted(tmp_path, parameter):
    """Export repeats a class token or a mask along the traced batch; the saved one serves any batch."""

    class Shifted(nn.Module):
        def __init__(self, batch):
            super().__init__()
            shift = torch.linspace(-1, 1, 6).repeat(batch, 1)
            self.fc = nn.Linear(6, 4)
            if parameter:
                self.shift = nn.Parameter(shift)
            else:
                self.register_buffer("shift", shift)

        def forward(self, x):
            return self.fc(x + self.shift)

    x = torch.randn(5, 6)
    graph, _ = traced(Shifted(5), ["fc"], x)
    names = {"fc": Scheme(8, 8)}
    model = quantize(graph, names, ranges=observe_ranges(graph, names, [(x,)]))
    model.save(tmp_path)
    for batch in (1, 3):
        other, _ = traced(Shifted(batch), ["fc"], x[:batch])
        for tensor in (*other.parameters(), *other.buffers()):
            tensor.data.zero_()
        again = QuantizedModel.load(tmp_path, other)
        assert torch.equal(run(again.integer(), x[:batch]), run(model.integer(), x)[:batch])
    wrong = QuantizedModel(graph, model.layers, model.activations)
    graph.shift.data[0, 0] += 1  # rows now differ: nothing to repeat
    wrong.save(tmp_path)
    with pytest.raises(QuantError, match=r"shift|constant"):
        QuantizedModel.load(tmp_path, traced(Shifted(3), ["fc"], x[:3])[0])


def test_four_bit_weights_take_four_bits(tmp_path):
    graph, x = traced(nn.Sequential(nn.Linear(512, 512)), ["fc"], torch.randn(1, 512))
    sizes = {}
    for text in ("w4a8", "w8a8", "w1a8"):
        names = {"fc": Scheme.parse(text)}
        quantize(graph, names, ranges=observe_ranges(graph, names, [(x,)])).save(tmp_path / text)
        sizes[text] = (tmp_path / text / "weights.safetensors").stat().st_size
    assert sizes["w8a8"] - sizes["w4a8"] == 512 * 512 // 2
    assert sizes["w4a8"] - sizes["w1a8"] == 512 * 512 * 3 // 8


def test_altered_files_are_refused(tmp_path, net, make):
    make("w4a8").save(tmp_path)
    weights = tmp_path / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(QuantError, match="altered"):
        QuantizedModel.load(tmp_path, net[0])
    document = json.loads((tmp_path / "quantized.json").read_text())
    (tmp_path / "quantized.json").write_text(json.dumps({**document, "schema": "other"}))
    with pytest.raises(QuantError, match="not a hwsim-quantized-model"):
        QuantizedModel.load(tmp_path, net[0])
    with pytest.raises(QuantError, match="not a quantized model"):
        QuantizedModel.load(tmp_path / "nowhere", net[0])


def test_q4_overflow_of_the_accumulator_names_the_layer():
    graph, x = traced(nn.Sequential(nn.Linear(40_000, 3, bias=False)), ["wide"], torch.rand(1, 40_000))
    graph.get_parameter("0.weight").data.fill_(1.0)
    names = {"wide": Scheme.parse("w8a12")}
    ranges = observe_ranges(graph, names, [(x,)])
    with pytest.raises(QuantError, match=r"wide: .*32-bit accumulator"):
        quantize(graph, names, ranges=ranges)
    quantize(graph, {"wide": Scheme.parse("w8a8")}, ranges=ranges).check()


def test_matmul_overflow_is_found():
    class Product(nn.Module):
        def forward(self, x):
            return x @ x.transpose(0, 1)

    graph, x = traced(Product(), ["mm"], torch.rand(2, 4096))
    names = {"mm": Scheme(14, 14)}
    with pytest.raises(QuantError, match="mm: a sum"):
        quantize(graph, names, ranges=observe_ranges(graph, names, [(x,)]))


def test_twin_has_gradients_for_scales_and_bias(net, make):
    fake = make("w4a8.o2").fake()
    activations, products = fake_parts(fake)
    assert set(products) == set(NAMES) - {"qk", "av"} and "av.in0" in activations
    first(fake(net[1])).square().sum().backward()
    assert all(float(p.scales[k].grad.abs().sum()) > 0 for p in products.values() for k in range(2))
    assert all(a.scale.grad is not None and torch.isfinite(a.scale.grad) for a in activations.values())
    assert float(products["stem"].bias.grad.abs().sum()) > 0


def test_straight_through_gradient_is_that_of_the_clamp():
    act = FakeActivation(ActQuantizer(4, scale=0.5, zero_point=3))
    x = torch.tensor([-5.0, -0.7, 0.3, 5.0, 9.0], requires_grad=True)
    codes, scale = act(x)
    (codes * scale).sum().backward()
    assert codes.tolist() == [-3, -1, 1, 10, 12]
    assert x.grad.tolist() == [0, 1, 1, 1, 0]
    inside, outside = (-1 + 1.4) + (1 - 0.6) + (10 - 10), -3 + 12  # LSQ: q - x/s inside, the limit outside
    assert float(act.scale.grad) == pytest.approx(inside + outside, abs=1e-5)


def test_term_validator():
    good = Term(torch.tensor([[1, -7], [0, 3]], dtype=torch.int8), torch.ones(2), 4)
    good.check("here", (2, 2))
    bad = [
        Term(good.codes * 2, good.scale, 4),
        Term(good.codes, good.scale, 1),
        Term(good.codes, good.scale * float("nan"), 4),
        Term(good.codes, good.scale, 4, rows=torch.tensor([1, 0], dtype=torch.int32)),
        Term(good.codes, good.scale, 4, cols=torch.tensor([0, 5], dtype=torch.int32)),
        Term(good.codes[:1], good.scale, 4),
    ]
    for term in bad:
        with pytest.raises(QuantError, match="here"):
            term.check("here", (2, 2))


def test_mistakes_are_named(net, make):
    graph, _, ranges = net
    with pytest.raises(QuantError, match="nonsense: not a product"):
        quantize(graph, {"nonsense": Scheme(8, 8)}, ranges=ranges)
    with pytest.raises(QuantError, match=r"head\.in0: no activation range"):
        quantize(graph, {"head": Scheme(8, 8)}, ranges=ActRanges())
    with pytest.raises(QuantError, match="needs both widths"):
        quantize(graph, {"qk": Scheme(8, None)}, ranges=ranges)
    with pytest.raises(QuantError, match="first term"):
        make("w4a8.o2.g50").select(lambda layer: [1]).check()


@pytest.mark.parametrize("low, high", [(-1.0, 3.0), (0.0, 2.0), (-4.0, -1.0), (0.0, 0.0), (2.0, 5.0)])
@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_quantizer_holds_zero_and_its_range(low, high, bits):
    q = quantizer_of(low, high, bits)
    assert 0 <= q.zero_point < 2**bits
    step = q.scale * 0.51
    reach = [(code - q.zero_point) * q.scale for code in (0, 2**bits - 1)]
    if low != high:
        assert reach[0] <= min(low, 0) + step and reach[1] >= max(high, 0) - step


def test_synthetic_inputs_are_seeded(net):
    a, b, c = (synthetic_inputs(net[0], 1, seed)[0][0] for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c) and a.shape == net[1].shape
    assert np.allclose(operator.methodcaller("std", dim=(1, 2, 3))(a), 1, atol=1e-3)
