"""Batch norms behind a product disappear, exactly; others stay."""

import torch
from torch import nn

from hwsim.model.export import export_program, graph_module
from hwsim.model.fold import fold_batch_norms
from hwsim.model.simplify import clean


def _norm(channels):
    norm = nn.BatchNorm2d(channels, eps=1e-3)
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
        tensor.normal_()
    norm.running_var.uniform_(0.1, 3)
    return norm


def _folded(module, image):
    graph = graph_module(export_program(module.double(), (image,)))
    clean(graph)
    count = fold_batch_norms(graph)
    graph.recompile()
    return graph, count


def test_q6_folding_is_exact_with_and_without_bias_and_in_groups():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(4, 8, 3, bias=False), _norm(8), nn.Conv2d(8, 8, 3, groups=8), _norm(8),
        nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6, affine=False),
    ).eval()  # fmt: skip
    image = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    graph, count = _folded(module, image)
    assert count == 3
    assert not any("batch_norm" in str(node.target) for node in graph.graph.nodes)
    assert not any("running" in name for name in graph.state_dict())
    assert torch.allclose(graph(image)[0], module(image), rtol=0, atol=1e-12)


def test_a_norm_whose_product_is_read_elsewhere_stays():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), _norm(3)

        def forward(self, x):
            y = self.conv(x)
            return self.norm(y) + y

    torch.manual_seed(0)
    module, image = Net().eval(), torch.randn(1, 3, 4, 4, dtype=torch.float64)
    graph, count = _folded(module, image)
    assert count == 0
    assert torch.equal(graph(image)[0], module(image))


def test_the_product_keeps_what_the_norm_had_seen():
    """Inputs with the running statistics give folded outputs with the mean and deviation that were kept."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(2, 5, 1), _norm(5)
    image = torch.randn(64, 2, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        seen = conv.double()(image)
        norm.running_mean, norm.running_var = seen.mean((0, 2, 3)), seen.var((0, 2, 3), correction=0)
    graph, _ = _folded(nn.Sequential(conv, norm).eval(), image)
    (product,) = (node for node in graph.graph.nodes if "batch_norm" in node.meta)
    mean, deviation = product.meta["batch_norm"]
    behind = graph(image)[0]
    assert torch.allclose(mean.double(), behind.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(deviation.double(), behind.std((0, 2, 3), correction=0), rtol=1e-6)


def test_an_identity_norm_tells_nothing():
    """Norms that were folded before saving come back as identities; they have measured nothing."""
    conv, norm = nn.Conv2d(2, 5, 1), nn.BatchNorm2d(5)
    graph, count = _folded(nn.Sequential(conv, norm).eval(), torch.randn(1, 2, 4, 4, dtype=torch.float64))
    assert count == 1
    assert not any("batch_norm" in node.meta for node in graph.graph.nodes)
