"""Ranges and moments from the statistics of norms, against networks whose statistics are those of the data."""

import pytest
import torch

from hwsim.model.load import load_model
from quant.data_free import data_free_ranges, node_ranges, ranges_without_data
from quant.model_pass import find_products
from quant.moments import data_free_moments
from quant.observe import observe_moments, observe_ranges
from quant.qmodel import quantize
from quant.scheme import Scheme


@pytest.fixture(scope="module")
def convolutions():
    return load_model("tests/quant/networks.py:convolutions")


@pytest.fixture(scope="module")
def attention():
    return load_model("tests/small_models.py:transformer")


def everywhere(loaded, text="w8a8"):
    return {
        p.name: Scheme(8, 8) if p.kind == "matmul" else Scheme.parse(text) for p in loaded.graph.products()
    }


def test_folded_norms_give_the_range_of_all_that_follows(convolutions):
    """Six deviations hold nearly all that the network does on data of those statistics, and not much more."""
    plan = everywhere(convolutions)
    seen = observe_ranges(convolutions.module, plan, [convolutions.example_inputs])
    free = data_free_ranges(convolutions.module, plan, seen)
    assert free.source == "data-free"
    assert set(convolutions.batch_norms) == {"stem", "depthwise", "pointwise"}
    for name in ("depthwise", "pointwise", "last", "head"):
        (low, high), (free_low, free_high) = seen.of(f"{name}.in0"), free.of(f"{name}.in0")
        covered = 0.7  # a sum of few rectified values has longer tails than a normal
        assert free_low <= covered * low
        assert covered * high <= free_high
        assert free_high <= 2 * high or name == "head"  # a mean over positions is narrower than its terms
    assert free.of("stem.in0") == seen.of("stem.in0")


def test_moments_behind_folded_norms_are_those_of_the_data(convolutions):
    names = ["pointwise", "last"]
    seen = observe_moments(convolutions.module, names, [convolutions.example_inputs])
    free = data_free_moments(convolutions.module)
    assert "depthwise" not in free  # a column of a grouped weight meets many channels
    for name in names:
        assert torch.allclose(free[name].second.float(), seen[name], rtol=0.35, atol=0.05)


def test_layer_norms_reach_through_attention(attention):
    """Views, softmax and averaging keep ranges; only what no norm reaches is left to observation."""
    plan = everywhere(attention)
    seen = observe_ranges(attention.module, plan, [attention.example_inputs])
    free = data_free_ranges(attention.module, plan, seen)
    known = node_ranges(attention.module)
    left = {p.name for p in find_products(attention.module) if any(x not in known for x in p.inputs)}
    assert left == {"embed", "head"}
    for key, (low, high) in seen.ranges.items():
        assert free.of(key)[0] <= low + 1e-6
        assert free.of(key)[1] >= high - 1e-6
    assert (
        free.of("av.in0" if "av.in0" in free.ranges else next(k for k in free.ranges if "av.in0" in k))[1]
        == 1
    )


def test_quantizing_without_ranges_uses_the_norms(convolutions):
    plan = everywhere(convolutions)
    made = quantize(convolutions.module, plan, ranges=None)
    assert made.range_source == "data-free"
    x = convolutions.example_inputs
    exact, found = convolutions.module(*x)[0], made.integer()(*x)[0]
    assert float((exact - found).square().mean() / exact.var()) < 0.01


def test_identity_norms_leave_everything_to_observation():
    """The batch norm of this network has measured nothing."""
    loaded = load_model("tests/small_models.py:conv_net")
    assert loaded.batch_norms == {}
    plan = everywhere(loaded)
    seen = observe_ranges(loaded.module, plan, [loaded.example_inputs], source="synthetic")
    assert data_free_ranges(loaded.module, plan, seen) is seen


def test_below_eight_bits_least_squares_on_synthetic_inputs_decide(convolutions):
    """Each width by its own rule, in one network."""
    plan = everywhere(convolutions) | {"last": Scheme(4, 4)}
    inputs = [convolutions.example_inputs]
    found = ranges_without_data(convolutions.module, plan, inputs)
    wide = data_free_ranges(convolutions.module, plan, observe_ranges(convolutions.module, plan, inputs))
    fitted = observe_ranges(convolutions.module, plan, inputs, method="mse")
    for key in found.ranges:
        assert found.of(key) == (fitted if key.startswith("last.") else wide).of(key)
    assert found.of("last.in0")[1] < wide.of("last.in0")[1]
    assert (found.source, found.method) == ("data-free", "minmax, mse below 8 bits")
    narrow = ranges_without_data(convolutions.module, dict.fromkeys(plan, Scheme(4, 4)), inputs)
    assert (narrow.source, narrow.method) == ("synthetic", "mse")
