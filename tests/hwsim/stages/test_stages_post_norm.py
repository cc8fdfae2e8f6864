"""A reparameterized network whose norms also feed its residual path is saved, loaded, evaluated and compiled."""

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
"""


@pytest.fixture(scope="module")
def name(tmp_path_factory):
    path = tmp_path_factory.mktemp("post") / "net.py"
    path.write_text(FILE)
    return f"{path}:net"


def fitted(name):
    """The model after RepQuant at 6 bits, and one input."""
    model = load_model(name, batch=4)
    batches = [(torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(i)),) for i in range(3)]
    assignment = uniform_assignment(model.graph, Scheme.parse("w6a6"))
    made = apply_recipe(model.module, assignment, batches, Recipe.parse("repquant"))
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
