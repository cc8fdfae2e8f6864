"""Forms that export leaves in a graph and that are written out: the same numbers as the module gives."""

import torch
from torch import nn

from hwsim.model.export import export_program, graph_module
from hwsim.model.load import simplify


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.turn, self.head = nn.Linear(6, 6), nn.Linear(6, 4)
        self.register_buffer("numbers", torch.arange(6.0))

    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            x = self.turn(x)
        with torch.no_grad():
            x = x + torch.ones_like(x) * x.new_full((6,), 2.0)
        grown = self.numbers + 1
        return self.head(x * grown), grown * 2, x.new_zeros(x.shape[0])


def simplified(module, *inputs):
    graph = graph_module(export_program(module, inputs))
    simplify(graph)
    return graph


def test_parts_under_switches_and_tensors_like_others_are_written_out():
    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(3, 6)
    graph = simplified(net, x)
    for found, expected in zip(graph(x), net(x), strict=True):
        torch.testing.assert_close(found, expected)
    assert [str(n.target) for n in graph.graph.nodes if n.op == "call_function"] == [
        "aten.linear.default", "aten.add.Tensor", "aten.mul.Tensor", "aten.linear.default"
    ]  # fmt: skip


def test_transposed_convolutions_are_products():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1),
        nn.ConvTranspose2d(4, 6, 2, stride=(2, 3), output_padding=(1, 2), groups=2, bias=False),
    ).eval()
    x = torch.randn(2, 6, 5, 4)
    graph = simplified(net, x)
    torch.testing.assert_close(graph(x)[0], net(x))
    layers = {n.meta["layer"]: n.meta["kind"] for n in graph.graph.nodes if "layer" in n.meta}
    assert layers["0"] == layers["1"] == "conv2d"
