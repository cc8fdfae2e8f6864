"""One sequential pass that calibrates every product of a graph on the quantized path (methods.md 5.5, 9.7).

Two streams run side by side through the nodes: the float network and the network quantized so far. At a norm
the reparameterization is chosen and folded; at a product the activation grids, the weight rounding and the
compensating bias are chosen, in that order, against the float stream; then both streams move on. So every
choice sees the errors of all earlier ones, and one pass does the work of RepQuant, GPTQ and BC together. A pass may
also start from an earlier one, whose rounding it takes over: then it fits grids and biases alone, cheaply enough
that several biases can be tried (quant/methods/bias_choice.py). The float stream is left out where no step looks at
it, and where its outputs are there already (quant/methods/float_outputs.py).
"""
# pyright: basic
# torch.fx nodes and metadata are untyped in torch's stubs.

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from quant import model_pass
from quant.activation import ActQuantizer
from quant.errors import QuantError
from quant.expansion import expand
from quant.first_order import FIRST_ORDERS
from quant.log_codes import LogQuantizer, ZeroMode
from quant.methods.activation_cache import BUDGET, ActivationCache
from quant.methods.activation_grids import RangeRule, fit_grid, is_softmax
from quant.methods.bias_compensation import (
    BiasAxes,
    BiasPath,
    Shrinkage,
    channel_axis,
    mean_error,
)
from quant.methods.dual_clipping import (
    DualClippingOptions,
    affine_grid,
    channel_mse_range,
    learn_dual_clipping,
)
from quant.methods.float_outputs import FloatOutputs
from quant.methods.gptq import GptqOptions, asymmetric_target, gptq
from quant.methods.interpret import (
    ActivationGrid,
    GraphRunner,
    PlacedLayer,
    Placement,
    fake_activation,
    quantized_operands,
    value_of_terms,
)
from quant.methods.layer_norm_reparam import TargetScale, channel_to_layer
from quant.methods.log_softmax_quant import fit_log
from quant.methods.norm_sites import NormSite, apply_reparameterization, find_norm_sites
from quant.methods.output_gain import Gain, amplified, output_gain
from quant.methods.position_groups import fit_groups, fixed_length, position_groups, samples_lead
from quant.methods.product_inputs import Moments, input_rows, sample_values
from quant.methods.weight_grids import FINE_BITS, ScaleRule, grouped, term_grid
from quant.model_pass import Product, attribute
from quant.scheme import Scheme

SCALE_ROWS = 3072
Progress = Callable[[str, int, int], None]
"""(layer name, products done, products in all)"""


@dataclass(frozen=True)
class CalibrationOptions:
    """Which methods the pass applies. The default is plain round-to-nearest on min-max ranges."""

    activation_ranges: RangeRule = "minmax"
    weight_scales: ScaleRule = "minmax"
    reparameterize: bool = False
    scale_target: TargetScale = "mean"
    clip: DualClippingOptions | None = None
    log_softmax: ZeroMode | None = None
    log_steps: int = 2
    """Steps per octave of the log codes: 2 for base sqrt2, 1 for base 2."""
    first_order: str | None = None
    """An operator of `quant.first_order.FIRST_ORDERS` makes the first term instead of a grid and `gptq`."""
    gptq: GptqOptions | None = None
    asymmetric: bool = False
    bias: Shrinkage | None = None
    bias_path: BiasPath = "quantized"
    bias_axes: BiasAxes = "channel"
    bias_gain: Gain = "none"
    """With the bias, a factor that restores the spread (output_gain.py)."""
    rows: int = 16384
    """Input rows kept for the second moments of one layer; `SCALE_ROWS` are enough to choose scales by."""
    memory: int = BUDGET
    """Bytes of activations held in memory; the rest lies in memory-mapped temporary files."""


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A graph (with reparameterized norms, if any) and the quantizers chosen for it."""

    module: fx.GraphModule
    placement: Placement
    notes: Mapping[str, str] = field(default_factory=dict)
    folded: frozenset[str] = frozenset()
    """Activation grids that a later pass must not fit again: norms are folded for them, or they were learned."""

    def logits(self, inputs: Sequence[Tensor]) -> Tensor:
        """First output with quantizers in place."""
        with torch.no_grad():
            return GraphRunner(self.module).logits(inputs, self.placement)

    def predictions(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """All outputs that predict, the first in front."""
        with torch.no_grad():
            return GraphRunner(self.module).predictions(inputs, self.placement)


def calibrate(
    module: fx.GraphModule,
    assignment: Mapping[str, Scheme],
    batches: Sequence[Sequence[Tensor]],
    options: CalibrationOptions | None = None,
    progress: Progress | None = None,
    start: Calibrated | None = None,
    wanted: FloatOutputs | None = None,
) -> Calibrated:
    """Quantize the products named in ``assignment``; ``module`` itself stays as it is.

    With ``start``, an earlier pass over this module that fitted no bias, its folding and rounding are kept. ``wanted``
    are the float outputs of this module on these batches, for a bias to be fitted to.
    """
    if not batches:
        raise QuantError("calibration: no samples were given")
    with torch.no_grad():
        walk = _Walk(module, assignment, batches, options or CalibrationOptions(), progress, start, wanted)
        return walk.run()


class _Walk:
    """State of the pass: the graph copy, the two streams of every batch and the placement so far."""

    def __init__(
        self,
        module: fx.GraphModule,
        assignment: Mapping[str, Scheme],
        batches: Sequence[Sequence[Tensor]],
        options: CalibrationOptions,
        progress: Progress | None,
        start: Calibrated | None,
        wanted: FloatOutputs | None,
    ) -> None:
        self.start = start
        # only norms change the graph, and those of an earlier pass are folded already
        self.module = model_pass.copy_module(module) if start is None else module
        self.runner = GraphRunner(self.module)
        self.options, self.progress = options, progress
        self.assignment = {name: s for name, s in assignment.items() if not s.is_float}
        known = {product.name for product in self.runner.products.values()}
        unknown = sorted(set(self.assignment) - known)
        if unknown:
            raise QuantError(f"{unknown[0]}: not a product of this model, so it cannot be quantized")
        self.exact = [self.runner.feed(batch) for batch in batches]
        self.quant = [self.runner.feed(batch) for batch in batches]
        fits_bias = self.options.bias is not None
        inputs = (self.options.asymmetric and start is None) or (
            fits_bias and self.options.bias_path == "float"
        )
        self.wanted = None if inputs else wanted
        self.carried = inputs or (fits_bias and wanted is None)
        """Whether the float stream is run: for its inputs, or for outputs that nobody has."""
        self.cache = ActivationCache(self.options.memory) if self.wanted is None else self.wanted.cache
        self.batch = int(batches[0][0].shape[0]) if batches[0][0].dim() else 1
        self.placement = Placement()
        self.notes: dict[str, str] = {} if start is None else dict(start.notes)
        self.folded: set[str] = set() if start is None else set(start.folded)
        self.shared: dict[tuple[fx.Node, int], str] = {}
        self.same = set(self.exact[0])
        """Nodes before the first quantizer: both streams hold one tensor."""
        self.done = 0

    def run(self) -> Calibrated:
        sites: dict[fx.Node, NormSite] = {}
        if self.options.reparameterize and self.start is None:
            sites = {site.node: site for site in find_norm_sites(self.module, self.runner.products)}
        finished: set[fx.Node] = set()
        node = next(iter(self.module.graph.nodes))
        while node.op != "root":
            if node.op == "call_function":
                site = sites.get(node)
                if site is not None:
                    self._reparameterize(site)
                self._step(node)
                finished.add(node)
                self._release(node, finished)
            node = node.next
        if sites:
            self.module.recompile()
        return Calibrated(self.module, self.placement, self.notes, frozenset(self.folded))

    def _step(self, node: fx.Node) -> None:
        product = self.runner.products.get(node)
        scheme = self.assignment.get(product.name) if product is not None else None
        if product is not None and scheme is not None:
            self._product(product, scheme)
            self.done += 1
            if self.progress is not None:
                self.progress(product.name, self.done, len(self.assignment))
            return
        if not self.carried:
            for quant in self.quant:
                quant[node] = self._kept(self.runner.evaluate(node, quant))
            return
        shared = all(source in self.same or source.op == "get_attr" for source in node.all_input_nodes)
        for exact, quant in zip(self.exact, self.quant, strict=True):
            exact[node] = self._kept(self.runner.evaluate(node, exact))
            quant[node] = exact[node] if shared else self._kept(self.runner.evaluate(node, quant))
        if shared:
            self.same.add(node)

    def _kept(self, value: Any) -> Any:
        return self.cache.keep(value) if isinstance(value, Tensor) else value

    def _release(self, node: fx.Node, finished: set[fx.Node]) -> None:
        """Drop values that nobody will read any more."""
        for source in (*node.all_input_nodes, node):
            if all(user in finished for user in source.users):
                for env in (*self.exact, *self.quant):
                    env.pop(source, None)

    # norms

    def _reparameterize(self, site: NormSite) -> None:
        schemes = [self.assignment.get(product.name) for product in site.products]
        widths = {scheme.act_bits if scheme is not None else None for scheme in schemes}
        bits = next(iter(widths))
        if len(widths) != 1 or bits is None:
            self.notes[site.name] = "not reparameterized: its readers differ in activation bits"
            return
        tokens = torch.cat([self.runner.evaluate(site.node, env).flatten(0, -2) for env in self.quant])
        weights = torch.cat([attribute(self.module, str(p.weight)).detach() for p in site.products])
        symmetric = not site.shifts
        low, high = tokens.amin(0), tokens.amax(0)
        if self.options.activation_ranges != "minmax":
            low, high = channel_mse_range(tokens, bits)
        if self.options.clip is not None:
            clipped = learn_dual_clipping(tokens, weights, bits, self.options.clip, (low, high))
            low, high = clipped.low, clipped.high
        if symmetric:
            scale = torch.maximum(low.abs(), high.abs()) / (2 ** (bits - 1) - 1)
            zero = torch.full_like(scale, 2.0 ** (bits - 1))
        else:
            scale, zero = affine_grid(low.double(), high.double(), bits)
        rep = channel_to_layer(scale, zero, bits, target=self.options.scale_target, shiftable=not symmetric)
        apply_reparameterization(self.module, site, rep)
        self.runner = GraphRunner(self.module)
        grid = ActQuantizer(bits, scale=float(torch.tensor(rep.scale).float()), zero_point=int(rep.zero))
        for product in site.products:
            source = next(p for p in self.runner.products.values() if p.name == product.name).inputs[0]
            key = self.shared.setdefault((source, bits), f"{product.name}.in0")
            self.placement = self.placement.with_activation(key, grid)
            self.folded.add(key)
        low_ratio, high_ratio = rep.ratio_range
        self.notes[site.name] = f"reparameterized, r1 {low_ratio:.3g}..{high_ratio:.3g}"

    # products

    def _product(self, product: Product, scheme: Scheme) -> None:
        if self.start is not None:
            layer = self._rounded(product, self.start)
        else:
            layer = PlacedLayer(scheme, inputs=self._activations(product, scheme))
            if product.kind != "matmul":
                layer = self._weights(product, scheme, layer)
            elif scheme.act_bits is None:
                raise QuantError(
                    f"{product.name}: a product of two activations needs both widths, not {scheme}"
                )
        self.placement = self.placement.with_layer(product.name, layer)
        node = product.node
        for number, (exact, quant) in enumerate(zip(self.exact, self.quant, strict=True)):
            if self.carried:
                exact[node] = self._kept(self.runner.evaluate(node, exact))
            elif self.wanted is not None and product.kind != "matmul":
                exact[node] = self.wanted.products[product.name][number]
            quant[node] = self._kept(self.runner.evaluate(node, quant, self.placement))
        if self.options.bias is not None and product.kind != "matmul":
            self._compensate(product, layer)

    def _rounded(self, product: Product, start: Calibrated) -> PlacedLayer:
        """The layer of the earlier pass; its inputs have moved, so their grids are fitted again."""
        layer = start.placement.layers[product.name]
        for key, source in zip(layer.inputs, product.inputs, strict=True):
            if key is not None and key not in self.placement.activations:
                grid = start.placement.activations[key]
                if key not in start.folded and isinstance(grid, ActQuantizer | LogQuantizer):
                    grid = self._fit_activation(source, grid.bits)
                self.placement = self.placement.with_activation(key, grid)
        return layer

    def _activations(self, product: Product, scheme: Scheme) -> tuple[str | None, ...]:
        widths = (scheme.act_bits, scheme.weight_bits) if product.kind == "matmul" else (scheme.act_bits,)
        keys: list[str | None] = []
        for index, (source, bits) in enumerate(zip(product.inputs, widths, strict=True)):
            if bits is None:
                keys.append(None)
                continue
            key = self.shared.setdefault((source, bits), f"{product.name}.in{index}")
            if key not in self.placement.activations:
                self.placement = self.placement.with_activation(key, self._fit_activation(source, bits))
            keys.append(key)
        return tuple(keys)

    def _fit_activation(self, source: fx.Node, bits: int) -> ActivationGrid:
        values = sample_values(self.runner.read(source, env) for env in self.quant)
        if self.options.log_softmax is not None and is_softmax(source):
            grid = fit_log(values, bits, self.options.log_softmax, self.options.log_steps)
            total = grid.fake(self.runner.read(source, self.quant[0])).sum(-1).mean()
            self.notes[source.name] = (
                f"log codes of base {'2' if grid.steps == 1 else 'sqrt2'}, mean row sum {float(total):.4f}"
            )
            return grid
        return fit_grid(values, bits, self.options.activation_ranges)

    def _weights(self, product: Product, scheme: Scheme, layer: PlacedLayer) -> PlacedLayer:
        options, groups = self.options, 1 if product.conv is None else product.conv.groups
        original = attribute(self.module, str(product.weight)).detach()
        weight = grouped(original, groups)
        if options.first_order is not None:
            made = expand(original, scheme, first=FIRST_ORDERS[options.first_order](original[0, 0].numel()))
            value = value_of_terms(made.terms, original.shape)
            return PlacedLayer(scheme, made.terms, value, layer.bias, layer.inputs)
        moments = None
        if options.gptq is not None or options.weight_scales == "mse":
            plain = options.gptq is None and not options.asymmetric
            fine = plain and (scheme.weight_bits or 0) >= FINE_BITS
            moments = self._moments(product, layer, Moments(diagonal=fine))
        target = weight
        if options.asymmetric and moments is not None and moments.cross is not None:
            target = asymmetric_target(weight, moments.own, moments.cross)
        grid = term_grid(target, scheme, options.weight_scales, None if moments is None else moments.own)
        if options.gptq is not None and moments is not None:
            codes = gptq(target, moments.own, grid, options.gptq).codes
        else:
            codes = grid.nearest(target)
        terms = grid.terms(codes)
        return PlacedLayer(scheme, terms, value_of_terms(terms, original.shape), layer.bias, layer.inputs)

    def _moments(self, product: Product, layer: PlacedLayer, moments: Moments) -> Moments:
        source = product.inputs[0]
        rows = self.options.rows if self.options.gptq is not None else min(self.options.rows, SCALE_ROWS)
        share = max(64, rows // len(self.exact))
        for exact, quant in zip(self.exact, self.quant, strict=True):
            x = self.runner.read(source, quant)
            if product.conv is None:  # of rows, only those that are kept have to be quantized
                rows = self._faked(input_rows(x, product, share), layer.inputs[0])
            else:
                rows = input_rows(self._faked(x, layer.inputs[0]), product, share)
            paired = None
            if self.options.asymmetric:
                paired = input_rows(self.runner.read(source, exact), product, share)
            moments.update(rows, paired)
        return moments

    def _faked(self, x: Tensor, key: str | None) -> Tensor:
        return x if key is None else fake_activation(x, self.placement.activations[key])

    def _compensate(self, product: Product, layer: PlacedLayer) -> None:
        """Fit the bias on the outputs as they are now and add it to the layer (methods.md 4.7)."""
        node, options = product.node, self.options
        assert options.bias is not None
        rank = self.quant[0][node].dim()
        axis = channel_axis(rank, convolution=product.kind == "conv2d")
        if options.bias_gain != "none" and layer.terms:
            layer = self._with_gain(product, layer, axis)
        shape = self.quant[0][node].shape
        linear = product.kind == "linear"
        alike = options.bias_axes != "groups" or (linear and rank > 2 and fixed_length(self.runner.nodes))
        if options.bias_axes == "channel" or not alike or (linear and not samples_lead(shape, self.batch)):
            fitted = mean_error(self._outputs(product, layer), (axis,)).solve(options.bias).bias
            placed = self._with_bias(product, layer, fitted)
            shift = _along(fitted, axis, rank)
        else:
            pairs = list(self._outputs(product, layer))
            errors = mean_error(pairs, tuple(range(1, rank)))
            if options.bias_axes == "position":
                shift = errors.solve(options.bias).bias
                placed = replace(layer, offset=shift)
            else:
                found = errors.solve(options.bias)
                labels = position_groups(found.mean, found.variance)
                made = fit_groups(pairs, labels, options.bias)
                placed, shift = self._with_bias(product, layer, made.bias), made.bias
                if made.groups is not None:
                    table = made.groups.table()
                    placed, shift = replace(placed, offset=table, groups=made.groups), shift + table
                    sizes = torch.bincount(labels.flatten()).tolist()
                    self.notes[product.name] = f"bias by groups of {sizes} positions"
        self.placement = self.placement.with_layer(product.name, placed)
        for quant in self.quant:
            quant[node].add_(shift)

    def _with_gain(self, product: Product, layer: PlacedLayer, axis: int) -> PlacedLayer:
        """The layer with its output stretched to the float one's spread, and the streams moved with it."""
        node = product.node
        pairs = ((exact[node], quant[node]) for exact, quant in zip(self.exact, self.quant, strict=True))
        gain = output_gain(pairs, axis, self.options.bias_gain)
        for quant in self.quant:
            quant[node].mul_(_along(gain, axis, quant[node].dim()))
        bias, terms = self._bias(product, layer), amplified(layer.terms, gain)
        return replace(
            layer,
            terms=terms,
            weight=value_of_terms(terms, attribute(self.module, str(product.weight)).shape),
            bias=None if bias is None else bias * gain,
        )

    def _outputs(self, product: Product, layer: PlacedLayer) -> Iterator[tuple[Tensor, Tensor]]:
        """Wanted and quantized outputs by batch (`BiasPath`)."""
        node = product.node
        for exact, quant in zip(self.exact, self.quant, strict=True):
            wanted, output = exact[node], quant[node]
            if self.options.bias_path == "local":
                wanted = self._kept(self.runner.evaluate(node, quant))
            elif self.options.bias_path == "float":
                args = quantized_operands(self._arguments(node, exact), product, layer, self.placement)
                output = node.target(*args)  # type: ignore[operator]
            yield wanted, output

    def _with_bias(self, product: Product, layer: PlacedLayer, fitted: Tensor) -> PlacedLayer:
        old = self._bias(product, layer)
        return replace(layer, bias=fitted if old is None else old + fitted)

    def _bias(self, product: Product, layer: PlacedLayer) -> Tensor | None:
        if layer.bias is not None or product.bias is None:
            return layer.bias
        return attribute(self.module, product.bias).detach()

    def _arguments(self, node: fx.Node, env: Mapping[fx.Node, Any]) -> Any:
        return map_arg(node.args, lambda n: self.runner.read(n, env))


def _along(values: Tensor, axis: int, rank: int) -> Tensor:
    """Values of channels, shaped to be combined with an output of that rank."""
    return values.reshape([-1 if number == axis else 1 for number in range(rank)])
