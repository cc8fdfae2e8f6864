"""Sensitivities against the Fisher information computed by hand; data-free moments against sampling."""

import gc

import pytest
import torch
from torch import nn

from quant.errors import QuantError
from quant.moments import data_free_moments, norm_range, normal_moments, through
from quant.sensitivity import measure_sensitivity, output_probe

aten = torch.ops.aten


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 5)

    def forward(self, x):
        return self.second(torch.relu(self.first(self.norm(x))))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.qk = nn.Linear(6, 12)
        self.head = nn.Linear(6, 11, bias=False)

    def forward(self, ids):
        x = self.embed(ids)
        q, k = self.qk(x).chunk(2, -1)
        return self.head(torch.matmul(torch.softmax(torch.matmul(q, k.transpose(-1, -2)), -1), x))


def export(module, *inputs):
    graph = torch.export.export(module.eval(), inputs).module()
    for number, node in enumerate(n for n in graph.graph.nodes if n.op == "call_function"):
        if node.target in (aten.linear.default, aten.matmul.default, aten.conv2d.default):
            weight = node.args[1]
            node.meta["layer"] = (
                str(weight.target).removesuffix(".weight") if weight.op == "get_attr" else f"mm{number}"
            )
    for node in list(graph.graph.nodes):
        if node.op == "call_module":
            graph.graph.erase_node(node)
    graph.recompile()
    return graph


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return Small(), torch.randn(1, 6)


def exact_fisher(module, x, parameter):
    """sum_y p(y) (d log p(y) / d W)^2, class by class."""
    logits = module(x)
    log_p = logits.log_softmax(-1)[0]
    total = torch.zeros_like(parameter)
    for y in range(len(log_p)):
        (gradient,) = torch.autograd.grad(log_p[y], parameter, retain_graph=True)
        total += log_p[y].exp() * gradient.square()
    return total.detach()


@pytest.mark.parametrize("name", ["first", "second"])
def test_squared_gradients_are_the_fisher_information(small, name):
    module, x = small
    graph = export(module, x)
    found = measure_sensitivity(graph, [(x,)] * 40, draws=50, act_bits=(8,))
    wanted = exact_fisher(module, x, getattr(module, name).weight)
    got = torch.from_numpy(found.layers[name].squared_gradient)
    assert float((got - wanted).norm() / wanted.norm()) < 0.1
    assert found.head == "classes"


def test_predicted_divergence_is_the_measured_one_for_small_noise(small):
    module, _ = small
    torch.manual_seed(1)
    inputs = torch.randn(64, 6)
    graph = export(module, inputs)
    found = measure_sensitivity(graph, [(inputs,)], draws=200, act_bits=(8,))
    reference = module(inputs).log_softmax(-1)
    measured = []
    with torch.no_grad():
        weight = module.first.weight.clone()
        for _ in range(300):
            module.first.weight.copy_(weight + 0.01 * torch.randn_like(weight))
            noisy = module(inputs).log_softmax(-1)
            measured.append(float((reference.exp() * (reference - noisy)).sum(-1).mean()))
        module.first.weight.copy_(weight)
    predicted = 0.5 * 1e-4 * float(found.layers["first"].squared_gradient.sum())
    assert predicted == pytest.approx(sum(measured) / len(measured), rel=0.15)


def test_probe_has_the_covariance_of_the_softmax():
    logits = torch.tensor([[0.3, -1.0, 2.0]])
    generator = torch.Generator().manual_seed(0)
    probes = torch.cat([output_probe(logits, "classes", generator) for _ in range(20000)])
    p = logits.softmax(-1)[0]
    assert torch.allclose(probes.T @ probes / len(probes), p.diag() - p[:, None] * p, atol=0.01)


def test_feature_probe_predicts_the_relative_error():
    generator = torch.Generator().manual_seed(0)
    output, error = torch.randn(1, 12), 0.1 * torch.randn(1, 12)
    probes = torch.cat([output_probe(output, "features", generator) for _ in range(5000)])
    assert 0.5 * float((probes @ error.T).square().mean()) == pytest.approx(
        0.5 * float(error.square().sum() / output.square().sum()), rel=0.1
    )


def test_tokens_are_recognised_and_both_operands_of_a_product_counted():
    torch.manual_seed(0)
    ids = torch.randint(0, 11, (2, 7))
    graph = export(Attention(), ids)
    before = {name: p.requires_grad for name, p in graph.named_parameters()}
    found = measure_sensitivity(graph, [(ids,)], act_bits=(4, 8))
    assert found.head == "tokens"
    assert found.predictions == 14
    products = [layer for layer in found.layers.values() if layer.squared_gradient is None]
    assert len(products) == 2
    for layer in found.layers.values():
        assert len(layer.act_loss) == (2 if layer.squared_gradient is None else 1)
        for operand in range(len(layer.act_loss)):
            assert 0 < layer.operand_loss(operand, 8) < layer.operand_loss(operand, 4)
            assert layer.operand_loss(operand, None) == 0
            assert layer.operand_loss(operand, 9) == pytest.approx(layer.operand_loss(operand, 8) / 4)
    assert all(p.grad is None for p in graph.parameters())
    assert before == {name: p.requires_grad for name, p in graph.named_parameters()}


def test_a_product_that_feeds_only_whole_numbers_loses_nothing():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.pooler = nn.Linear(6, 8), nn.Linear(8, 5)

        def forward(self, x):
            hidden = self.body(x)
            return hidden, self.pooler(hidden).argmax(-1)

    found = measure_sensitivity(export(Pooled(), torch.randn(1, 6)), [(torch.randn(1, 6),)], act_bits=(4, 8))
    assert found.layers["pooler"].operand_loss(0, 4) == 0
    assert found.layers["pooler"].squared_gradient is None
    assert found.layers["body"].operand_loss(0, 4) > 0


@pytest.mark.parametrize("scalar", [False, True])
def test_a_single_number_is_judged_by_its_relative_error(scalar):
    """One class would be certain, and no error of any layer would count; a number may also come without axes."""

    class Energy(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 1)

        def forward(self, x):
            y = self.last(torch.relu(self.first(x)))
            return y.sum() if scalar else y

    torch.manual_seed(3)
    x = torch.randn(1, 6)
    module = Energy()
    found = measure_sensitivity(export(module, x), [(x,)])
    y = module(x).reshape(())
    y.backward()
    assert found.head == "features" and found.predictions == 1
    expected = (module.last.weight.grad / y.detach()).square()
    torch.testing.assert_close(torch.from_numpy(found.layers["last"].squared_gradient), expected)


def test_same_seed_same_numbers(small):
    module, x = small
    graph = export(module, x)
    first, second = (measure_sensitivity(graph, [(x,)], seed=3) for _ in range(2))
    assert (first.layers["first"].squared_gradient == second.layers["first"].squared_gradient).all()
    with pytest.raises(QuantError, match="at least one batch"):
        measure_sensitivity(graph, [])


@pytest.mark.parametrize("function", [torch.relu, torch.nn.functional.gelu, torch.sigmoid])
def test_moments_through_activations_match_sampling(function):
    mean, deviation = torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([0.5, 1.0, 2.0])
    sample = mean + deviation * torch.randn(200000, 3, generator=torch.Generator().manual_seed(0))
    found = through(normal_moments(mean, deviation), function)
    assert torch.allclose(found.mean, function(sample).double().mean(0), atol=0.02)
    assert torch.allclose(found.second, function(sample).double().square().mean(0), rtol=0.03, atol=0.01)


def test_data_free_moments_follow_the_norm(small):
    module, x = small
    with torch.no_grad():
        module.norm.weight.copy_(torch.linspace(0.5, 3, 6))
        module.norm.bias.copy_(torch.linspace(-1, 1, 6))
    found = data_free_moments(export(module, x))
    assert set(found) == {"first", "second"}
    seen = module.norm(torch.randn(5000, 6))
    assert torch.allclose(found["first"].second, seen.double().square().mean(0), rtol=0.1)
    inner = torch.relu(module.first(seen)).double().square().mean(0)
    assert torch.allclose(found["second"].second, inner, rtol=0.3, atol=0.3)


def test_norm_range_holds_zero_and_is_clipped_by_relu():
    beta, gamma = torch.tensor([1.0, -2.0]), torch.tensor([0.5, -1.0])
    assert norm_range(beta, gamma, rectify=False) == (-8.0, 4.0)
    assert norm_range(beta, gamma, rectify=True) == (0.0, 4.0)


def test_no_pass_leaves_its_tensors_behind(small):
    """Planning many networks in one process must not grow; a hook that holds the recorder keeps all it ran."""
    module, x = small
    graph = export(module, x)

    def alive():
        measure_sensitivity(graph, [(x,)], act_bits=(8,))
        gc.collect()
        return sum(isinstance(found, torch.Tensor) for found in gc.get_objects())

    alive()
    assert alive() == alive()


class TwoHeads(nn.Module):
    """Classes, and four numbers for each sample, of one trunk."""

    def __init__(self):
        super().__init__()
        self.trunk, self.classes, self.boxes = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(8, 4)

    def forward(self, x):
        y = torch.relu(self.trunk(x))
        return self.classes(y), {"boxes": self.boxes(y), "count": (y > 0).sum(-1)}


class OneHead(TwoHeads):
    def forward(self, x):
        return super().forward(x)[0]


def test_further_outputs_count_by_their_relative_squared_errors():
    """Closed form: half the squared error over the squared norm has the Hessian x_j^2 / |y|^2 in a last weight."""
    torch.manual_seed(0)
    two, x = TwoHeads().eval(), torch.randn(1, 6)
    found = measure_sensitivity(export(two, x), [(x,)], draws=4, act_bits=(4,))
    with torch.no_grad():
        y = torch.relu(two.trunk(x))
        norm = two.boxes(y).square().sum()
    expected = (y.square() / norm).expand(4, 8)
    torch.testing.assert_close(torch.from_numpy(found.layers["boxes"].squared_gradient), expected)
    assert found.layers["boxes"].act_loss[0][4] > 0
    assert (found.head, found.others) == ("classes", 1)


def test_numbers_are_relative_to_all_batches():
    """A sample whose numbers are near 0 is no reason to keep more bits than its share of the error asks for."""
    torch.manual_seed(0)
    two = TwoHeads().eval()
    with torch.no_grad():
        two.boxes.bias.zero_()
    batches = [(torch.randn(1, 6),), (1e-3 * torch.randn(1, 6),)]
    found = measure_sensitivity(export(two, batches[0][0]), batches, act_bits=(4,)).layers["boxes"]
    with torch.no_grad():
        hidden = torch.cat([torch.relu(two.trunk(x)) for (x,) in batches])
        power = torch.cat([two.boxes(torch.relu(two.trunk(x))) for (x,) in batches]).square().mean()
    expected = (hidden.square().mean(0) / (4 * power)).expand(4, 8)
    torch.testing.assert_close(torch.from_numpy(found.squared_gradient), expected)


def test_the_trunk_adds_up_what_its_outputs_ask():
    """Over many probes: that of the classes alone, and the squared Jacobian of the numbers."""
    torch.manual_seed(0)
    two, x = TwoHeads().eval(), torch.randn(1, 6)
    one = OneHead().eval()
    one.load_state_dict(two.state_dict())
    both, alone = (
        measure_sensitivity(export(net, x), [(x,)], draws=4000, act_bits=(4,))
        .layers["trunk"]
        .squared_gradient
        for net in (two, one)
    )
    live = (two.trunk(x) > 0).float()[0]
    jacobian = two.boxes.weight * live  # d boxes / d trunk
    norm = two.boxes(torch.relu(two.trunk(x))).square().sum()
    added = (jacobian.square().sum(0)[:, None] * x.square() / norm).detach().numpy()
    assert both == pytest.approx(alone + added, rel=0.1, abs=0.01 * float(both.max()))
