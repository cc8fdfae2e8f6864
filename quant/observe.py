"""Activation ranges of a graph: watch every product's inputs while batches run through the float model.

With calibration data the batches are real; without, `synthetic_inputs` makes seeded ones, and the ranges
carry the source "synthetic" so that figures which rest on them can say so.
"""
# pyright: basic
# torch.fx nodes and metadata are untyped in torch's stubs.

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, fx

from quant.activation import ActRanges
from quant.errors import QuantError
from quant.model_pass import attribute, find_products
from quant.ranges import mse_affine_range, percentile_range, thinned
from quant.scheme import Scheme

RangeMethod = Literal["minmax", "percentile", "mse"]
_SAMPLE = 1 << 16
"""Values kept of each tensor and batch; the extremes are always among them."""


class _Watcher(fx.Interpreter):
    """Keeps minimum, maximum and a thinned sample of chosen nodes."""

    def __init__(self, module: fx.GraphModule, watched: set[fx.Node], samples: bool) -> None:
        super().__init__(module)
        self.watched, self.keeps_samples = watched, samples
        self.extremes: dict[fx.Node, tuple[float, float]] = {}
        self.samples: dict[fx.Node, list[Tensor]] = {node: [] for node in watched}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self.watched and isinstance(value, Tensor):
            low, high = (float(end) for end in torch.aminmax(value.detach().float()))
            before = self.extremes.get(n, (low, high))
            self.extremes[n] = (min(before[0], low), max(before[1], high))
            if self.keeps_samples:
                self.samples[n].append(thinned(value.detach().float().flatten(), _SAMPLE))
        return value


def observe_ranges(
    module: fx.GraphModule,
    assignment: Mapping[str, Scheme],
    batches: Iterable[Sequence[Tensor]],
    *,
    method: RangeMethod | Callable[[int], RangeMethod] = "minmax",
    percentile: float = 0.9999,
    source: str = "calibration",
) -> ActRanges:
    """Ranges of the inputs of all products that `assignment` quantizes, over the batches; a method may go by width."""
    inputs: dict[str, tuple[fx.Node, int]] = {}
    for product in find_products(module):
        scheme = assignment.get(product.name)
        if scheme is None or scheme.act_bits is None:
            continue
        for index, (node, bits) in enumerate(
            zip(product.inputs, (scheme.act_bits, scheme.weight_bits), strict=False)
        ):
            inputs[f"{product.name}.in{index}"] = (node, int(bits or 8))
    methods: dict[int, RangeMethod] = {
        bits: method(bits) if callable(method) else method for _, bits in inputs.values()
    }
    sampled = any(chosen != "minmax" for chosen in methods.values())
    watcher = _Watcher(module, {node for node, _ in inputs.values()}, sampled)
    with torch.no_grad():
        for batch in batches:
            watcher.run(*batch)
    if inputs and not watcher.extremes:
        raise QuantError("activation ranges: no calibration batch was given; pass at least one")
    found = {
        (node, bits): _range(watcher, node, bits, methods[bits], percentile)
        for node, bits in set(inputs.values())
    }
    return ActRanges(
        {key: found[value] for key, value in inputs.items()},
        source,
        "by width" if callable(method) else method,
    )


def _range(
    watcher: _Watcher, node: fx.Node, bits: int, method: RangeMethod, percentile: float
) -> tuple[float, float]:
    if method == "minmax":
        return watcher.extremes[node]
    values = torch.cat(watcher.samples[node])
    chosen = (
        percentile_range(values, bits, percentile)
        if method == "percentile"
        else mse_affine_range(values, bits)
    )
    return chosen.low, chosen.high


def observe_moments(
    module: fx.GraphModule, names: Iterable[str], batches: Iterable[Sequence[Tensor]]
) -> dict[str, Tensor]:
    """Second moment E[x_j^2] of every input channel of the named products, for column-sparse terms.

    Grouped convolutions are left out: a column of their weight meets another channel in every group.
    """
    wanted = set(names)
    channels = {
        product.inputs[0]: (product, 1 if product.conv is not None else -1)
        for product in find_products(module)
        if product.name in wanted and (product.conv is None or product.conv.groups == 1)
    }
    sums: dict[fx.Node, Tensor] = {}
    counts: dict[fx.Node, int] = {}

    class Summer(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n in channels:
                flat = value.double().movedim(channels[n][1], -1).flatten(0, -2)
                sums[n] = sums.get(n, 0) + flat.square().sum(0)
                counts[n] = counts.get(n, 0) + len(flat)
            return value

    summer = Summer(module)
    with torch.no_grad():
        for batch in batches:
            summer.run(*batch)
    return {
        product.name: (sums[product.inputs[0]] / counts[product.inputs[0]]).to(torch.float32)
        for product in find_products(module)
        if product.name in wanted and product.inputs[0] in sums
    }


def synthetic_inputs(
    module: fx.GraphModule, batches: int = 2, seed: int = 0, examples: Sequence[Tensor] = ()
) -> list[tuple[Tensor, ...]]:
    """Seeded inputs of the traced shapes: images with the 1/f spectrum of natural ones, random tokens.

    Masks stay as in the ``examples``: which value hides a place is the network's to know. Whole numbers that are
    no tokens are drawn from those of the examples.
    """
    generator = torch.Generator().manual_seed(seed)
    places = [node for node in module.graph.nodes if node.op == "placeholder"]
    known: list[Tensor | None] = list(examples) if len(examples) == len(places) else [None] * len(places)
    pairs = list(zip(places, known, strict=True))
    return [tuple(_synthetic(module, *pair, generator) for pair in pairs) for _ in range(batches)]


def _synthetic(
    module: fx.GraphModule, node: fx.Node, example: Tensor | None, generator: torch.Generator
) -> Tensor:
    value = node.meta["val"]
    shape = tuple(int(size) for size in value.shape)
    if not value.dtype.is_floating_point:
        if "mask" in node.name or value.dtype == torch.bool:
            return torch.ones(shape, dtype=value.dtype) if example is None else example
        vocabulary = _vocabulary(module, node)
        if vocabulary is None and example is not None and example.numel():
            places = torch.randint(0, example.numel(), shape, generator=generator)
            return example.flatten()[places]
        return torch.randint(0, vocabulary or 2, shape, generator=generator).to(value.dtype)
    noise = torch.randn(shape, generator=generator)
    return natural(noise) if len(shape) == 4 and min(shape[2:]) > 4 else noise


def natural(noise: Tensor) -> Tensor:
    """Noise with amplitude 1/f and colours that mostly move together, as in photographs; unit variance."""
    height, width = noise.shape[2:]
    rows, cols = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None, :]
    radius = (rows.square() + cols.square()).sqrt().clamp(min=1.0 / max(height, width))
    grey = 0.9 * noise[:, :1] + 0.45 * noise
    image = torch.fft.irfft2(torch.fft.rfft2(grey) / radius, s=(height, width))
    return image / image.std(dim=(1, 2, 3), keepdim=True)


def _vocabulary(module: fx.GraphModule, node: fx.Node) -> int | None:
    """Rows of the embedding that reads this input; None where none does."""
    for user in node.users:
        if user.target is torch.ops.aten.embedding.default and isinstance(user.args[0], fx.Node):
            return int(attribute(module, str(user.args[0].target)).shape[0])
    return None
