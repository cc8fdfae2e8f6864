"""The same pass on every supported family: the twin equals the integer path, product by product."""

from collections.abc import Iterator

import pytest
import torch
from torch import fx

from hwsim.model.load import load_model
from quant.data_free import data_free_ranges
from quant.ensemble import runnable
from quant.fake import FakeProduct, fake_parts
from quant.observe import observe_ranges, synthetic_inputs
from quant.qmodel import QuantizedModel, quantize
from quant.scheme import Scheme

TINY_BERT = "num_hidden_layers=2,hidden_size=48,num_attention_heads=4,intermediate_size=96,vocab_size=99"
TINY_OPT = "num_hidden_layers=2,hidden_size=48,num_attention_heads=4,ffn_dim=96,vocab_size=99"
TINY_LLAMA = (
    "num_hidden_layers=2,hidden_size=64,num_attention_heads=4,num_key_value_heads=2,"
    "intermediate_size=96,vocab_size=99"
)
FAMILIES = {
    "vit": "timm:vit_tiny_patch16_224[depth=2,img_size=64,num_classes=7]",
    "swin": "timm:swin_tiny_patch4_window7_224[embed_dim=24,img_size=112]",
    "resnet": "timm:resnet18",
    "mobilenet": "timm:mobilenetv2_035[pad_type=same]",
    "regnet": "timm:regnetx_002",
    "bert": f"hf:bert-base-uncased[{TINY_BERT}]",
    "opt": f"hf:opt-125m[{TINY_OPT},word_embed_proj_dim=48]",
    "llama": f"hf:llama-7b[{TINY_LLAMA}]",
}


class Recorder(fx.Interpreter):
    """Keeps the result of every node that has a layer name."""

    def __init__(self, module):
        super().__init__(module, garbage_collect_values=False)
        self.found = {}

    def run_node(self, n):
        value = super().run_node(n)
        if "layer" in n.meta and isinstance(value, torch.Tensor):
            self.found[n.meta["layer"]] = value
        return value


def products_in_step(model: QuantizedModel, inputs) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Outputs of each product on both paths, the twin fed with the integer path's activations.

    A float path that is fed with its own activations would round a value near a tie the other way sooner or
    later; with equal inputs both paths must agree in every product.
    """
    integer = Recorder(model.integer())
    integer.run(*inputs)
    _, products = fake_parts(model.fake())
    for node in integer.module.graph.nodes:
        target = str(node.target)
        if not target.startswith("hwsim.rescale"):
            continue
        name = node.meta["layer"]
        quantized = next(n for n in walk(node) if str(n.target).startswith("hwsim.quantize"))
        codes, scale, zero = (integer.env[n] for n in (quantized, *quantized.args[1:3]))
        unit = products[name]
        assert isinstance(unit, FakeProduct)
        yield name, integer.found[name], unit(((codes.to(torch.int32) - zero).float(), scale))


def walk(node):
    """A node's inputs, nearest first."""
    pending = list(node.all_input_nodes)
    while pending:
        current = pending.pop(0)
        yield current
        pending += current.all_input_nodes


@pytest.mark.parametrize("family", FAMILIES)
def test_family_runs_in_integers_and_equals_its_twin(family):
    loaded = load_model(FAMILIES[family], sequence=12 if FAMILIES[family].startswith("hf:") else None)
    scheme = Scheme.parse("w4a8.o2.g50")
    plan = {p.name: Scheme(8, 8) if p.kind == "matmul" else scheme for p in loaded.graph.products()}
    inputs = synthetic_inputs(loaded.module, 1)
    model = quantize(loaded.module, plan, ranges=observe_ranges(loaded.module, plan, inputs))
    assert set(model.layers) == set(plan)
    with torch.no_grad():
        checked = 0
        for name, integer, twin in products_in_step(model, inputs[0]):
            bound = 1e-5 * float(integer.abs().max()) + 1e-6
            assert float((integer - twin).abs().max()) <= bound, name
            checked += 1
        assert checked == sum(p.kind != "matmul" for p in loaded.graph.products())
        reference = loaded.module(*inputs[0])[0]
        outputs = [runnable(model)(*inputs[0])[0], model.fake()(*inputs[0])[0]]
    error = [float((out - reference).norm() / reference.norm()) for out in outputs]
    assert error[0] < 0.5 and abs(error[0] - error[1]) < 0.02, error


def test_data_free_is_the_default_and_says_so():
    loaded = load_model(FAMILIES["vit"])
    plan = {p.name: Scheme(8, 8) for p in loaded.graph.products()}
    model = quantize(loaded.module, plan, ranges=None)
    assert model.range_source == "data-free"
    seen = observe_ranges(loaded.module, plan, synthetic_inputs(loaded.module), source="synthetic")
    given = data_free_ranges(loaded.module, plan, seen)
    assert model.activations == quantize(loaded.module, plan, ranges=given).activations
