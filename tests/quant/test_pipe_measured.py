"""Layers quantized alone: against networks in which the layer was replaced by hand."""

import copy

import pytest
import torch
from torch import nn

from hwsim.model.load import load_model
from quant.errors import QuantError
from quant.expansion import expand
from quant.measured import Trial, divergence, measure_alone
from quant.ranges import minmax_range
from quant.scheme import Scheme
from tests.small_models import SmallConvNet, SmallTransformer


def kl(reference, output):
    p, q = torch.softmax(reference.double(), -1), torch.softmax(output.double(), -1)
    return float((p * (p / q).log()).sum(-1).mean())


def test_weights_against_a_network_with_the_weight_replaced(pytestconfig):
    model = load_model(f"{pytestconfig.rootpath}/tests/small_models.py:transformer")
    torch.manual_seed(0)
    plain = SmallTransformer().eval()
    batches = [(torch.randn(1, 16, 12),) for _ in range(3)]
    weights = dict(plain.named_parameters())
    scheme = Scheme(3, None)

    def trials(name):
        known = weights.get(f"{name}.weight")
        return [] if known is None else [Trial(scheme, weight=expand(known.detach(), scheme).weight())]

    found = measure_alone(model.module, batches, trials, "classes")
    assert {name for name, results in found.items() if results} == {
        "embed",
        "qkv",
        "proj",
        "fc1",
        "fc2",
        "head",
    }
    for name in ("embed", "qkv", "fc2", "head"):
        changed = copy.deepcopy(plain)
        layer = changed.get_submodule(name)
        layer.weight.data = expand(layer.weight.detach(), scheme).weight().reshape(layer.weight.shape)
        with torch.no_grad():
            expected = sum(kl(plain(*batch), changed(*batch)) for batch in batches) / len(batches)
        assert found[name][scheme] == pytest.approx(expected, rel=1e-3)


def test_operands_against_a_hook(pytestconfig):
    model = load_model(f"{pytestconfig.rootpath}/tests/small_models.py:conv_net")
    torch.manual_seed(0)
    plain = SmallConvNet().eval()
    x = torch.randn(1, 3, 32, 32)
    grid = minmax_range(torch.tensor([0.0, 2.0]), 3)
    found = measure_alone(
        model.module, [(x,)], lambda _: [Trial(3, ranges=(grid,)), Trial("none")], "classes"
    )
    for name in ("depthwise", "pointwise", "head"):
        changed = copy.deepcopy(plain)
        changed.get_submodule(name).register_forward_pre_hook(
            lambda _, args: (args[0] + grid.error(args[0]),)
        )
        with torch.no_grad():
            expected = kl(plain(x), changed(x))
        assert found[name][3] == pytest.approx(expected, rel=1e-3)
        assert found[name]["none"] == pytest.approx(0.0, abs=1e-9)


def test_features_count_half_the_relative_error():
    reference = torch.tensor([[3.0, 4.0]])
    assert divergence([reference], [reference + torch.tensor([[1.0, 0.0]])], "features") == pytest.approx(
        0.5 / 25
    )


def test_no_inputs_is_said():
    graph = torch.export.export(nn.Linear(2, 2), (torch.randn(1, 2),)).module()
    with pytest.raises(QuantError, match="at least one batch"):
        measure_alone(graph, [], lambda _: [])


def test_further_outputs_add_half_their_relative_squared_error():
    logits, boxes = torch.randn(3, 5), torch.randn(3, 4)
    moved = [logits + 0.1 * torch.randn(3, 5), boxes + 0.1 * torch.randn(3, 4)]
    error = float((moved[1] - boxes).square().sum() / boxes.square().sum())
    assert divergence([logits, boxes], moved, "classes") == pytest.approx(
        kl(logits, moved[0]) + error / 2, rel=1e-4
    )
