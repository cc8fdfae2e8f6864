"""Bias compensation by groups of positions: who is split off, the closed form, and what reaches the integers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from quant.methods.calibrate import CalibrationOptions, calibrate
from quant.methods.interpret import integer_model
from quant.methods.position_groups import fit_groups, position_groups
from quant.model_pass import find_products
from quant.qmodel import QuantizedModel
from quant.scheme import Scheme
from tests.quant.methods.toy_networks import batches, loaded

CLASS, CORNERS = 0, [1, 4, 13, 16]


def outlying(samples=24, seed=0):
    """Errors of 17 tokens: all share a mean, the class token and four corners have their own."""
    g = torch.Generator().manual_seed(seed)
    mean = 0.3 * torch.randn(1, 1, 32, generator=g).repeat(1, 17, 1)
    mean[:, CLASS] -= 2.0
    mean[:, CORNERS] += 20.0 * torch.randn(32, generator=g)
    return mean + 0.5 * torch.randn(samples, 17, 32, generator=g)


def mean_and_variance(errors):
    return errors.double().mean(0), errors.double().var(0) / len(errors)


def test_class_token_and_outlying_patches_are_split_off_and_the_rest_stay_together():
    labels = position_groups(*mean_and_variance(outlying()))
    assert labels.tolist() == [2 if t == CLASS else int(t in CORNERS) for t in range(17)]
    assert position_groups(*mean_and_variance(outlying()), limit=1).tolist() == [0] * 17


@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_splits_nothing(seed):
    noise = torch.randn(32, 40, 64, generator=torch.Generator().manual_seed(seed)) + 0.7
    assert position_groups(*mean_and_variance(noise)).tolist() == [0] * 40


def test_biases_are_the_means_of_the_groups():
    """numpy twin; two ragged batches; afterwards the mean error of every group is zero."""
    errors = outlying()
    labels = torch.tensor([2 if t == CLASS else int(t in CORNERS) for t in range(17)])
    exact = torch.randn(errors.shape, generator=torch.Generator().manual_seed(9))
    quantized = exact - errors
    pairs = [(exact[:5], quantized[:5]), (exact[5:], quantized[5:])]
    fitted = fit_groups(pairs, labels, "none")
    gaps = (exact.double() - quantized.double()).numpy()
    twin = np.stack([gaps[:, labels.numpy() == g].mean((0, 1)) for g in range(3)])
    np.testing.assert_allclose(fitted.bias.numpy(), twin[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fitted.groups.values.numpy(), twin[1:] - twin[:1], rtol=1e-5, atol=1e-5)
    left = exact - (quantized + fitted.bias + fitted.groups.table())
    assert max(float(left[:, labels == g].mean((0, 1)).abs().max()) for g in range(3)) < 1e-5
    masks = sum(m * v for m, v in zip(fitted.groups.masks(), fitted.groups.values, strict=True))
    assert torch.equal(masks, fitted.groups.table())  # what the graph adds is what the simulation adds
    one = [(exact[:1], quantized[:1])]
    assert (
        float(fit_groups(one, labels, "layer").bias.abs().max()) == 0.0
    )  # one sample says nothing of its noise


def test_groups_reach_the_integer_model_and_its_file(tmp_path):
    """Token 0 of every image is a hundred times the others: its clipped outputs err in one direction."""
    data = [
        (x * torch.where(torch.arange(7) == 0, 100.0, 1.0)[:, None] + 1.0,) for (x,) in batches("pre_norm", 6)
    ]
    scheme = {p.name: Scheme.parse("w4a4") for p in find_products(loaded("pre_norm"))}
    options = CalibrationOptions("mse", "mse", bias="layer", bias_axes="groups")
    result = calibrate(loaded("pre_norm"), scheme, data, options)
    grouped = {name for name, layer in result.placement.layers.items() if layer.groups is not None}
    assert grouped
    assert "head" not in grouped  # one output a sample: no positions
    model = integer_model(result.module, result.placement)
    ours = torch.cat([result.logits(batch) for batch in data])
    bare = QuantizedModel(
        model.module, {n: replace(layer, groups=None) for n, layer in model.layers.items()}, model.activations
    )

    def run(module):
        with torch.no_grad():
            return torch.cat([out[0] if isinstance(out := module(*batch), tuple) else out for batch in data])

    whole = run(model.integer())
    torch.testing.assert_close(whole, ours, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(run(model.fake()), whole, rtol=1e-3, atol=1e-3)
    assert float((run(bare.integer()) - whole).abs().max()) > 1e-2
    model.save(tmp_path)
    again = QuantizedModel.load(tmp_path, result.module)
    assert torch.equal(run(again.integer()), whole)


def test_sentences_have_no_positions():
    """B7: token i of one text has nothing in common with token i of another; lengths differ."""
    from tests.quant.methods.toy_networks import Gated

    class Text(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.body = torch.nn.Embedding(11, 6), Gated()

        def forward(self, ids):
            return self.body(self.table(ids))

    torch.manual_seed(0)
    ids = torch.randint(11, (4, 7))
    graph = torch.export.export(Text().eval(), (ids,)).module()
    for node in graph.graph.nodes:
        if node.target is torch.ops.aten.linear.default:
            node.meta["layer"] = str(node.args[1])
    scheme = {p.name: Scheme.parse("w3a6") for p in find_products(graph)}
    options = CalibrationOptions("mse", "mse", bias="none", bias_axes="groups")
    placed = calibrate(graph, scheme, [(ids,)], options).placement
    assert placed.layers
    assert all(layer.groups is None and layer.bias is not None for layer in placed.layers.values())
