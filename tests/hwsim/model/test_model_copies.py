"""Views that move data: torch's own storages are the oracle, and what a writer's freedom of order saves."""

import random

import pytest
import torch
from torch import nn

from hwsim.model.copies import copying_views
from hwsim.model.load import load_model
from hwsim.model.operators import op_name


class Chain(nn.Module):
    """An addition, then views."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def forward(self, x):
        x = x + 1
        for step in self.steps:
            x = step(x)
        return x.relu()


def copies(module, *inputs):
    graph = torch.export.export(module, inputs).graph_module.graph
    found = copying_views(graph)
    return [op_name(node) for node in graph.nodes if node in found]


def test_windows_of_an_image_are_copied_and_heads_beside_tokens_are_not():
    windows = [
        lambda x: x.view(1, 2, 4, 2, 4, 6), lambda x: x.permute(0, 1, 3, 2, 4, 5), lambda x: x.reshape(4, 16, 6)
    ]  # fmt: skip
    assert len(copies(Chain(windows), torch.zeros(1, 8, 8, 6))) == 1
    # From (heads, tokens, features): the writer puts the heads side by side.
    heads = [lambda x: x.transpose(1, 2), lambda x: x.reshape(1, 5, 12)]
    assert copies(Chain(heads), torch.zeros(1, 3, 5, 4)) == []
    # Through another view it cannot know; the fastest axis is never moved away.
    behind = [lambda x: x.reshape(1, 3, 5, 4), *heads]
    assert len(copies(Chain(behind), torch.zeros(3, 5, 4))) == 1
    columns = [lambda x: x.transpose(0, 1), lambda x: x.reshape(-1)]
    assert len(copies(Chain(columns), torch.zeros(3, 5))) == 1


def test_channels_that_a_convolution_wrote_last_are_shuffled_by_a_copy_and_flattened_without():
    class Shuffle(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)

        def forward(self, x):
            x = self.conv(x)
            return x.view(1, 2, 4, 5, 5).transpose(1, 2).reshape(1, 8, 5, 5).relu()

    class Tokens(Shuffle):
        def forward(self, x):
            return self.conv(x).flatten(2).transpose(1, 2).relu()

    assert len(copies(Shuffle(), torch.zeros(1, 3, 5, 5))) == 1
    assert copies(Tokens(), torch.zeros(1, 3, 5, 5)) == []


def _random_step(rng, shape):
    """A view of a tensor of this shape, and its shape."""
    if rng.random() < 0.5 and len(shape) > 1:
        order = rng.sample(range(len(shape)), len(shape))
        return lambda x: x.permute(order), [shape[axis] for axis in order]
    flat, sizes = shape[:], []
    while flat:  # merge neighbours or split an axis in two
        size = flat.pop(0)
        if flat and rng.random() < 0.3:
            size *= flat.pop(0)
        sizes += [2, size // 2] if size % 2 == 0 and rng.random() < 0.3 else [size]
    return lambda x: x.reshape(sizes), sizes


@pytest.mark.parametrize("seed", range(25))
def test_random_chains_copy_where_eager_torch_does(seed):
    """The first view is a reshape, so what writes the tensor writes it row by row."""
    rng = random.Random(seed)
    first = [rng.choice([2, 3, 4, 6]) for _ in range(3)]
    shape, steps, wanted = [1, *first], [lambda x: x.reshape(1, *first)], 0
    value = torch.zeros(shape)
    for _ in range(5):
        step, shape = _random_step(rng, shape)
        after = step(value)
        wanted += after.untyped_storage().data_ptr() != value.untyped_storage().data_ptr()
        steps.append(step)
        value = after
    assert len(copies(Chain(steps), torch.zeros(first))) == wanted


def test_copies_are_layers_of_the_graph():
    graph = load_model("timm:swin_tiny_patch4_window7_224[embed_dim=24,img_size=112]", device="meta").graph
    moved = [layer for layer in graph.layers if layer.op == "copy"]
    assert (
        len(moved) == 11
    )  # windows and back in the blocks of the first two stages, and three mergings of patches
    assert all(layer.kind == "other" and layer.macs == 0 for layer in moved)
    names = {layer.name for layer in graph.layers}
    for layer in moved:
        assert layer.inputs[0] in names
        assert layer.elements == graph.by_name(layer.inputs[0]).elements
    assert any(layer.inputs[:1] == (moved[0].name,) for layer in graph.layers)
    assert not any(
        layer.op == "copy" for layer in load_model("timm:deit_tiny_patch16_224", device="meta").graph.layers
    )
