"""Operators of the first order through a recipe: each changes what it should, and its bound holds."""

import pytest
import torch

from hwsim.model.load import load_model
from quant.equalize import equalisable_pairs, equalized
from quant.errors import QuantError
from quant.expansion import expand
from quant.first_order import FIRST_ORDERS
from quant.model_pass import attribute, find_products
from quant.pipeline import apply_recipe, calibration_options
from quant.recipe import Recipe
from quant.scheme import Scheme


@pytest.fixture(scope="module")
def chain():
    return load_model("tests/quant/networks.py:relu_chain")


def plan(loaded, text="w4a8"):
    return {p.name: Scheme.parse(text) for p in loaded.graph.products()}


def channel_ranges(module, index):
    products = find_products(module)
    first, second = (attribute(module, p.weight) for p in products[index : index + 2])
    after = second.transpose(0, 1) if second.shape[1] == 1 else second
    return first.flatten(1).abs().amax(1), after.transpose(0, 1).flatten(1).abs().amax(1)


def test_equalised_graph_computes_the_same_with_equal_ranges(chain):
    made, pairs = equalized(chain.module)
    assert pairs == 3  # stem-depthwise, depthwise-pointwise, the two linears; not across ReLU6
    exact, found = chain.module(*chain.example_inputs)[0], made(*chain.example_inputs)[0]
    assert torch.allclose(exact, found, rtol=1e-4, atol=1e-5)
    for index in (0, 1, 4):
        left, right = channel_ranges(made, index)
        assert torch.allclose(left, right, rtol=0.02)
    before, _ = channel_ranges(chain.module, 0)
    assert float(before[3]) > 5  # the original was left alone


def test_no_pair_where_a_tensor_is_read_elsewhere():
    """In a residual block the stem's output is added again: it cannot be rescaled."""
    loaded = load_model("tests/small_models.py:conv_net")
    names = [(a.name, b.name) for a, b in equalisable_pairs(loaded.module)]
    assert names == [("depthwise", "pointwise")]


@pytest.mark.parametrize("recipe", ["squant", "pow2", "gptq", "dfq", "dfq+squant"])
@pytest.mark.parametrize("text", ["w4a8", "w4a8.o2"])
def test_recipes_reach_every_operator(chain, recipe, text):
    batches = [chain.example_inputs]
    made = apply_recipe(chain.module, plan(chain, text), batches, Recipe.parse(recipe))
    plain = apply_recipe(chain.module, plan(chain, text), batches, Recipe.parse("rtn"))
    layers = [made.placement.layers, plain.placement.layers]
    stem = [layer[next(iter(plan(chain)))].weight for layer in layers]
    assert not torch.equal(*stem)
    exact = chain.module(*chain.example_inputs)[0]
    error = float((made.logits(chain.example_inputs) - exact).norm() / exact.norm())
    assert error < (0.05 if text.endswith("o2") else 0.6)


def test_terms_of_a_recipe_are_those_of_the_expansion(chain):
    scheme = Scheme.parse("w4a8.o2")
    made = apply_recipe(
        chain.module, plan(chain, str(scheme)), [chain.example_inputs], Recipe.parse("squant")
    )
    product = find_products(chain.module)[0]
    weight = attribute(chain.module, product.weight).detach()
    wanted = expand(weight, scheme, first=FIRST_ORDERS["squant"](9)).terms
    for term, expected in zip(made.placement.layers[product.name].terms, wanted, strict=True):
        assert torch.equal(term.codes, expected.codes)
        assert torch.equal(term.scale, expected.scale)


def test_power_of_two_scales_reach_the_layers(chain):
    made = apply_recipe(chain.module, plan(chain), [chain.example_inputs], Recipe.parse("pow2"))
    for layer in made.placement.layers.values():
        exponent = torch.log2(layer.terms[0].scale)
        assert torch.equal(exponent, exponent.round())


def test_two_operators_for_one_order_are_refused():
    with pytest.raises(QuantError, match="squant and gptq both make the first order"):
        calibration_options(Recipe.parse("gptq+squant"))
