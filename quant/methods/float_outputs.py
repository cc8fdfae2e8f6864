"""What the float network gives for each calibration batch, computed once for all passes that fit a bias to it.

The candidates of a bias (bias_choice.py) and the pass that follows all ask for the same float outputs of the
products, on the same samples. They are kept where they take at most half of the memory that a calibration may use;
else every pass carries a float stream of its own, which needs the values of one place in the network at a time.
"""
# pyright: basic
# torch.fx nodes are untyped in torch's stubs.

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from quant.methods.activation_cache import ActivationCache
from quant.methods.interpret import GraphRunner

SHARE = 0.5
"""Of the memory; the rest is for the quantized streams."""


@dataclass(frozen=True, eq=False)
class FloatOutputs:
    """Outputs of products by name and those of the network, both by batch."""

    products: Mapping[str, Sequence[Tensor]]
    predictions: Sequence[Sequence[Tensor]]
    cache: ActivationCache
    """Counts them; whoever uses them counts his own activations there, too."""

    def of(self, batches: slice) -> "FloatOutputs":
        """Those of some batches."""
        products = {name: outputs[batches] for name, outputs in self.products.items()}
        return FloatOutputs(products, self.predictions[batches], self.cache)


def float_outputs(
    module: fx.GraphModule, names: Collection[str], batches: Sequence[Sequence[Tensor]], memory: int
) -> FloatOutputs | None:
    """Float outputs of the named products with a weight, or None where they would take too much memory."""
    runner, cache = GraphRunner(module), ActivationCache(memory)
    named = {n: p.name for n, p in runner.products.items() if p.kind != "matmul" and p.name in names}
    keep = frozenset({*named, *runner.outputs})
    products: dict[str, list[Tensor]] = {name: [] for name in named.values()}
    predictions: list[list[Tensor]] = []
    size = 0
    for batch in batches:
        env = runner.feed(batch)
        with torch.no_grad():
            runner.run(env, runner.nodes, keep=keep)
        size += sum(runner.read(node, env).untyped_storage().nbytes() for node in keep)
        if size * len(batches) > SHARE * memory * (len(predictions) + 1):
            return None
        for node, name in named.items():
            products[name].append(cache.keep(env[node]))
        predictions.append([cache.keep(runner.read(node, env)) for node in runner.outputs])
    return FloatOutputs(products, predictions, cache)
