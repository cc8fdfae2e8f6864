"""Which values of a graph hold one entry a sample along their first axis, found by running it.

Shapes alone do not tell: torch's own attention may put tokens first, and a language model may lay the tokens of all
samples in one row. So a batch is run twice, the second time with its samples moved on by one: where samples lead,
the value moves on with them.
"""
# pyright: basic
# torch.fx nodes are untyped in torch's stubs.

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from quant.methods.interpret import Env, GraphRunner

TOLERANCE = 1e-3
"""Of the largest value: a sample's sums may run in another order at another place of the batch."""


@torch.no_grad()
def sample_leading(runner: GraphRunner, batch: Sequence[Tensor]) -> set[fx.Node]:
    """Inputs and calls whose value has the samples of the batch on axis 0."""
    size = len(batch[0])
    plain: Env = runner.feed(batch)
    moved: Env = runner.feed([tensor.roll(1, 0) for tensor in batch])
    found = {node for node in plain if len(plain[node]) == size}
    calls = [node for node in runner.nodes if node.op == "call_function"]
    last = {source: node for node in calls for source in node.all_input_nodes}
    for node in calls:
        for env in (plain, moved):
            env[node] = runner.evaluate(node, env)
        if _moves_on(plain[node], moved[node], size):
            found.add(node)
        for source in node.all_input_nodes:
            if last[source] is node:
                plain.pop(source, None)
                moved.pop(source, None)
    return found


def _moves_on(plain: Any, moved: Any, size: int) -> bool:
    if not isinstance(plain, Tensor) or plain.dim() == 0 or len(plain) != size:
        return False
    rolled = plain.roll(1, 0)
    if not plain.is_floating_point():
        return torch.equal(rolled, moved)
    largest = float(plain.abs().nan_to_num(posinf=0.0).max()) if plain.numel() else 0.0
    return torch.allclose(rolled, moved, rtol=TOLERANCE, atol=TOLERANCE * largest)
