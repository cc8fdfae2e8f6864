"""Recipes on networks built of torch's own layers: post-norm, norms without bias, attention with tokens first, LSTM."""

import pytest
import torch

from hwsim.model.load import load_model
from hwsim.stages.quantize import uniform_assignment
from quant.errors import QuantError
from quant.methods.interpret import integer_model
from quant.pipeline import apply_recipe
from quant.qmodel import QuantizedModel
from quant.recipe import Recipe
from quant.scheme import Scheme

FILE = """
import torch
from torch import nn

class PostNorm(nn.Module):
    \"\"\"As BERT does it: the norm behind the sum feeds the next layers and the next sum.\"\"\"
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(8, 16), nn.LayerNorm(16)
        self.up, self.down, self.last = nn.Linear(16, 24, bias=False), nn.Linear(24, 16), nn.LayerNorm(16)
        self.side, self.head = nn.Linear(16, 16, bias=False), nn.Linear(16, 5)
    def forward(self, x):
        x = self.norm(self.first(x))
        x = self.last(x + self.down(torch.relu(self.up(x))) + self.side(x))
        return self.head(x.mean(1))

def net():
    torch.manual_seed(0)
    made = PostNorm()
    with torch.no_grad():
        made.norm.weight.mul_(torch.linspace(0.2, 5, 16))
        made.norm.bias.add_(torch.linspace(-2, 2, 16))
    return made, (torch.randn(1, 6, 8),)

def encoder(bias=True):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, norm_first=not bias, bias=bias)
    body = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    return nn.Sequential(nn.Linear(8, 16), body, nn.Linear(16, 5)), (torch.randn(1, 8, 8),)

def plain():
    return encoder(bias=False)

class Steps(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 5)
    def forward(self, x):
        return self.head(self.layer(x)[0])

def lstm():
    torch.manual_seed(0)
    return Steps(), (torch.randn(1, 3, 8),)
"""


@pytest.fixture(scope="module")
def name(tmp_path_factory):
    path = tmp_path_factory.mktemp("post") / "net.py"
    path.write_text(FILE)
    return f"{path}:net"


def fitted(name, recipe="repquant", scheme="w6a6", batch=4):
    """The model after a recipe, and one input."""
    model = load_model(name, batch=batch)
    shape = model.example_inputs[0].shape
    batches = [(torch.randn(shape, generator=torch.Generator().manual_seed(i)),) for i in range(3)]
    assignment = uniform_assignment(model.graph, Scheme.parse(scheme))
    made = apply_recipe(model.module, assignment, batches, Recipe.parse(recipe))
    return integer_model(made.module, made.placement), batches[0][0]


def test_what_was_saved_computes_what_was_made(name, tmp_path):
    """Also at another batch."""
    made, x = fitted(name)
    assert any(node.target == torch.ops.aten.sub.Tensor for node in made.module.graph.nodes)
    made.save(tmp_path)
    expected = made.integer()(x)[0]
    for batch in (4, 2):
        loaded = QuantizedModel.load(tmp_path, load_model(name, batch=batch).module)
        torch.testing.assert_close(loaded.integer()(x[:batch])[0], expected[:batch])


def test_a_graph_without_the_norm_is_refused(name, tmp_path):
    made, _ = fitted(name)
    made.save(tmp_path)
    (tmp_path / "other.py").write_text(FILE.replace("x = self.norm(self.first(x))", "x = self.first(x)"))
    with pytest.raises(QuantError, match="load the model it was made from"):
        QuantizedModel.load(tmp_path, load_model(f"{tmp_path}/other.py:net", batch=4).module)


@pytest.mark.parametrize("batch", [4, 8])
def test_samples_are_no_positions(name, tmp_path, batch):
    """Inside torch's attention samples lie behind tokens (eight of them): no bias may hang on a sample's place."""
    made, _ = fitted(name.replace(":net", ":encoder"), "mse+bc", "w3a3", batch)
    grouped = {layer.name: layer for layer in made.layers.values() if layer.groups is not None}
    assert not [layer for layer in grouped if "in_proj" in layer or "self_attn" in layer]
    made.save(tmp_path)
    other = QuantizedModel.load(tmp_path, load_model(name.replace(":net", ":encoder"), batch=3).module)
    x = torch.randn(3, 8, 8)
    whole = other.integer()(x)[0]
    turned = other.integer()(x.flip(0))[0]
    torch.testing.assert_close(turned.flip(0), whole)


def test_a_bias_for_every_position_is_none_for_every_sample(name):
    """Tokens lead inside torch's attention; before it, and behind it, samples do."""
    model = load_model(name.replace(":net", ":encoder"), batch=4)
    batches = [(torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(i)),) for i in range(3)]
    assignment = uniform_assignment(model.graph, Scheme.parse("w3a3"))
    recipe = Recipe.parse({"steps": ["mse", "bc"], "bc": {"axes": "position", "path": "quantized"}})
    layers = apply_recipe(model.module, assignment, batches, recipe).placement.layers
    shaped = {key: layer.offset.shape for key, layer in layers.items() if layer.offset is not None}
    assert shaped["0"] == (8, 16) and shaped["2"] == (8, 5)
    assert all(len(shape) == 1 for key, shape in shaped.items() if "self_attn" in key)


def test_norms_without_a_bias_are_reparameterized_around_zero(name):
    """There is nothing to take up a shift, as in RMSNorm; the recipe used to end there."""
    made, x = fitted(name.replace(":net", ":plain"), "repquant", "w8a8")
    exact = load_model(name.replace(":net", ":plain"), batch=4).module(x)[0]
    assert torch.nn.functional.cosine_similarity(made.integer()(x)[0].flatten(), exact.flatten(), 0) > 0.99


def test_rounding_is_learned_through_a_recurrent_layer(name):
    """A unit ends in one tensor, not in the parts of a split."""
    recipe = {"steps": ["mse", "pd"], "pd": {"iterations": 4}}
    made, x = fitted(name.replace(":net", ":lstm"), recipe, "w4a4")
    exact = load_model(name.replace(":net", ":lstm"), batch=4).module(x)[0]
    assert torch.nn.functional.cosine_similarity(made.integer()(x)[0].flatten(), exact.flatten(), 0) > 0.9
