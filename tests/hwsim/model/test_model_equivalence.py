"""The exported, folded and decomposed graph computes what the eager network computes."""

from pathlib import Path

import pytest
import torch
from torch import nn

from hwsim.model.build import build
from hwsim.model.export import export_program, graph_module
from hwsim.model.graph import PRODUCT_KINDS
from hwsim.model.layers import layer_graph
from hwsim.model.load import load_model, simplify
from hwsim.model.sources import parse_source
from hwsim.model.weights import fill_random
from tests.hwsim.model import nets

NETS = Path(__file__).with_name("nets.py")
TINY_BERT = "num_hidden_layers=2,hidden_size=48,num_attention_heads=4,intermediate_size=96,vocab_size=99"
TINY_OPT = "num_hidden_layers=2,hidden_size=48,num_attention_heads=4,ffn_dim=96,vocab_size=99"
FAMILIES = {
    "vit": "timm:vit_tiny_patch16_224[depth=2,img_size=64,num_classes=7]",
    "deit": "timm:deit_tiny_distilled_patch16_224[depth=2,img_size=64]",
    "swin": "timm:swin_tiny_patch4_window7_224[embed_dim=24,img_size=112]",
    "resnet": "timm:resnet18[in_chans=1]",
    "resnetv2": "timm:resnetv2_50",
    "regnet": "timm:regnetx_002",
    "mobilenet": "timm:mobilenetv2_035[pad_type=same]",
    "mnasnet": "timm:mnasnet_050",
    "mobilenetv3": "timm:mobilenetv3_small_050",
    "bert": f"hf:bert-base-uncased[{TINY_BERT}]",
    "opt": f"hf:opt-125m[{TINY_OPT},word_embed_proj_dim=48]",
    "opt350": f"hf:opt-350m[{TINY_OPT},word_embed_proj_dim=24]",
    "einsum": f"{NETS}:einsum_attention",
    "stored_matrices": f"{NETS}:stored_matrices",
    "oddities": f"{NETS}:oddities",
    "encoder": f"{NETS}:encoder",
    "cifar_vit": f"{NETS}:cifar_vit",
    "cifar_resnet": f"{NETS}:cifar_resnet",
}
LLAMA = (
    "hf:llama-7b[num_hidden_layers=2,hidden_size=64,num_attention_heads=4,num_key_value_heads=2,"
    "intermediate_size=96,vocab_size=99,tie_word_embeddings=true]"
)


def _randomise(module):
    """Give every parameter and running statistic a value that shows in the output."""
    generator = torch.Generator().manual_seed(1)
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.running_mean.normal_(0, 0.3, generator=generator)
            norm.running_var.uniform_(0.5, 2.0, generator=generator)
    for parameter in module.parameters():
        if parameter.dim() == 1:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.2)


def _noise(item, dtype):
    if not isinstance(item, torch.Tensor) or not item.is_floating_point():
        return item
    return torch.randn(item.shape, generator=torch.Generator().manual_seed(2)).to(dtype)


def prepare(spec, dtype):
    source = parse_source(spec)
    sequence = 12 if source.source == "hf" else None
    built = build(source, "cpu", 1, sequence)
    fill_random(built.module, 3)
    _randomise(built.module)
    module = built.module.to(dtype)
    args = tuple(_noise(item, dtype) for item in built.args)
    kwargs = dict(built.kwargs)
    if "attention_mask" in kwargs:
        kwargs["attention_mask"] = kwargs["attention_mask"].clone()
        kwargs["attention_mask"][:, -3:] = 0
    return module, args, kwargs


def compare(spec, dtype, tolerance):
    """Run both on the same inputs; a model output of transformers is sliced into a tuple."""
    module, args, kwargs = prepare(spec, dtype)
    keep = [item.clone() if isinstance(item, torch.Tensor) else item for item in args]
    with torch.no_grad():
        expected = module(*keep, **kwargs)
    expected = (expected,) if isinstance(expected, torch.Tensor) else tuple(expected[:])
    graph = graph_module(export_program(module, args, kwargs))
    simplify(graph)
    inputs = [item for item in (*args, *kwargs.values()) if isinstance(item, torch.Tensor)]
    found = graph(*inputs)
    assert isinstance(found, tuple)
    for mine, theirs in zip(found, expected, strict=True):
        scale = theirs.abs().max()
        assert scale > 1e-3
        assert (mine - theirs).abs().max() <= tolerance * scale
    return graph


@pytest.mark.parametrize("family", FAMILIES)
def test_graph_equals_eager_module_in_float64(family):
    compare(FAMILIES[family], torch.float64, 1e-10)


@pytest.mark.parametrize("spec", [LLAMA, FAMILIES["vit"], FAMILIES["swin"], FAMILIES["mobilenet"]])
def test_graph_equals_eager_module_in_float32(spec):
    compare(spec, torch.float32, 1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_products_are_normalised_and_everything_is_named(family):
    module, args, kwargs = prepare(FAMILIES[family], torch.float32)
    graph = graph_module(export_program(module, args, kwargs))
    simplify(graph)
    aten = torch.ops.aten
    state = graph.state_dict()
    names = [node.meta["layer"] for node in graph.graph.nodes if "layer" in node.meta]
    assert len(names) == len(set(names))
    for node in graph.graph.nodes:
        if node.op != "call_function":
            continue
        text = str(node.target)
        assert not any(
            word in text for word in ("scaled_dot", "dropout", "addmm", ".bmm", ".mm.", "einsum")
        ), text
        assert not getattr(node.target, "_schema", None) or not node.target._schema.is_mutable, text
        if node.target in (aten.linear.default, aten.conv2d.default):
            assert node.args[1].target in state
            assert node.meta["kind"] in PRODUCT_KINDS
        if node.target is aten.conv2d.default:
            assert len(node.args) == 7
    eager = {name for name, child in module.named_modules() if isinstance(child, nn.Linear)}
    layers = layer_graph(graph, family, 0)
    named = {layer.name for layer in layers.layers if layer.kind == "linear"}
    hidden = {name for name in eager if ".self_attn.out_proj" in name}  # functional, not called as a module
    assert eager - hidden <= named


def test_gradients_reach_every_product_weight():
    module, args, kwargs = prepare(FAMILIES["swin"], torch.float32)
    graph = graph_module(export_program(module, args, kwargs))
    simplify(graph)
    graph(*args)[0].square().sum().backward()
    parameters = dict(graph.named_parameters())
    for layer in layer_graph(graph, "swin", 0).products():
        if layer.weight is not None:
            assert parameters[layer.weight].grad is not None
            assert parameters[layer.weight].grad.abs().max() > 0


def test_tied_weights_are_one_tensor_read_twice():
    graph = compare(LLAMA, torch.float32, 1e-5)
    tied = layer_graph(graph, "llama", 0).tied_weights()
    assert list(tied.values()) == [("model.embed_tokens", "lm_head")]
    norms = [layer for layer in layer_graph(graph, "llama", 0).layers if layer.op == "rms_norm"]
    assert [norm.name for norm in norms] == [
        "model.layers.0.input_layernorm",
        "model.layers.0.post_attention_layernorm",
        "model.layers.1.input_layernorm",
        "model.layers.1.post_attention_layernorm",
        "model.norm",
    ]


def test_causal_attention_does_not_look_ahead():
    graph = compare(FAMILIES["opt"], torch.float64, 1e-10)
    tokens = torch.arange(12).reshape(1, 12)
    changed = tokens.clone()
    changed[0, -1] = 50
    before, after = graph(tokens)[0], graph(changed)[0]
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert not torch.equal(before[:, -1], after[:, -1])


def test_a_stored_matrix_is_a_weight_however_it_is_spelled():
    graph = load_model(FAMILIES["stored_matrices"]).graph
    products = graph.products()
    assert [layer.kind for layer in products] == ["linear"] * 6
    stored = sum(parameter.numel() for parameter in nets.stored_matrices()[0].parameters())
    assert sum(layer.n * layer.k for layer in products) == stored and graph.other_parameters == 0
    assert len({layer.weight for layer in products}) == 6
